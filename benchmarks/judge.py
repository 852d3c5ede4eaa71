"""Train the judge that tells pattern families apart, for benchmarks/model.py: python benchmarks/judge.py

A small convolutional network, trained on renders of the training data's kind and tested on unseen ones, which are as
large as the model's pictures. Half of what it learns from is less crisp than renders are, so that it goes by shapes and
not by edges. It is kept in benchmarks/judge.safetensors (trained on a GPU); with other
pictures it is trained anew.
"""

import argparse
import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from joblib import Parallel, delayed
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from files import atomic_path  # noqa: E402
from ldm.data.pictures import render  # noqa: E402
from ldm.data.scenes import PATTERNS, Scene, sample_scene  # noqa: E402
from ldm.painter import choose_device  # noqa: E402
from ldm.train import to_tensor  # noqa: E402

SIZE = 128  # pixels a side that the judge sees
FIRST_SEED = 3_000_000_000  # of its training; unseen renders follow after TEST_SEED
TEST_SEED = 3_500_000_000
TRAINING_RENDERS = 80_000
TEST_RENDERS = 2_000
EPOCHS = 10
BATCH = 256
CHUNK = 100  # renders a task
WEIGHTS = ROOT / "benchmarks" / "judge.safetensors"


def single_pattern(seed: int) -> Scene:
    """The scene of `seed`, or of the next seed that has one pattern and no figure."""
    while (scene := sample_scene(seed, figure_share=0)).second:
        seed += 1_000_000
    return scene


def shrunk(picture: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8 at the judge's size."""
    return cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def renders(first_seed: int, count: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Pictures [count, 128, 128, 3] uint8 of single patterns, and which of `PATTERNS` each one is, [count].

    Args:
        size: that they are drawn at.
    """

    def chunk(seeds: range) -> tuple[list[np.ndarray], list[int]]:
        scenes = [single_pattern(seed) for seed in seeds]
        return [shrunk(render(scene, size)) for scene in scenes], [PATTERNS.index(s.pattern) for s in scenes]

    chunks = [
        range(start, min(start + CHUNK, first_seed + count)) for start in range(first_seed, first_seed + count, CHUNK)
    ]
    done = Parallel(n_jobs=-1, return_as="generator")(delayed(chunk)(seeds) for seeds in chunks)
    pictures, labels = zip(*tqdm(done, "rendering", len(chunks)), strict=True)
    return np.concatenate(pictures), np.concatenate(labels)


class _Block(nn.Module):
    """Two 3×3 convolutions, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Judge(nn.Module):
    """Pictures [B, 3, 128, 128] in −1…1 to features [B, 160], and those to one score a pattern."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 5, stride=2, padding=2), _Block(32),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), _Block(64),
            nn.Conv2d(64, 128, 3, stride=2, padding=1), _Block(128),
            nn.Conv2d(128, 160, 3, stride=2, padding=1), _Block(160), nn.BatchNorm2d(160), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(160, len(PATTERNS))

    def features(self, pictures: Tensor) -> Tensor:
        return self.body(pictures).mean(dim=(2, 3))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.features(pictures))

    def look(self, pictures: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Features [N, 160] float64 and the recognised patterns [N] of pictures [N, H, W, 3] uint8."""
        self.eval()
        small = torch.from_numpy(np.stack([shrunk(picture) for picture in pictures]))
        with torch.inference_mode():
            batches = small.split(250)
            features = torch.cat([self.features(to_tensor(batch.to(self.head.weight.device))) for batch in batches])
            return features.double().cpu().numpy(), self.head(features).argmax(dim=1).cpu().numpy()


def varied(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures mirrored, with red, green and blue changed about, and made less crisp: what pattern it is stays."""

    def chance() -> bool:
        return bool(torch.rand((), generator=generator) < 0.5)

    if chance():
        x = x.flip(3)
    if chance():
        smaller = int(torch.randint(SIZE // 2, SIZE, (), generator=generator))
        x = F.interpolate(F.interpolate(x, smaller, mode="area"), SIZE, mode="bilinear")
    return x[:, torch.randperm(3, generator=generator)].contiguous(memory_format=torch.channels_last)


def train(judge: Judge) -> None:
    """On the device that it lies on."""
    device = judge.head.weight.device
    pictures, labels = (torch.from_numpy(part).to(device) for part in renders(FIRST_SEED, TRAINING_RENDERS))
    steps = EPOCHS * (len(pictures) // BATCH)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    judge.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # torch's types leave it out
    with tqdm(total=steps, desc="judge") as bar:
        for _ in range(EPOCHS):
            order = torch.randperm(len(pictures), generator=generator).to(device)
            for rows in order[: len(order) // BATCH * BATCH].split(BATCH):
                x = varied(to_tensor(pictures[rows]), generator)
                with torch.autocast(device.type, torch.bfloat16):
                    scores = judge(x)
                loss = F.cross_entropy(scores.float(), labels[rows], label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")


def trained_judge() -> Judge:
    """The judge of pictures as they are drawn now, trained first if it is not there."""
    torch.manual_seed(0)
    judge = Judge().to(choose_device("auto"))
    first = b"".join(render(single_pattern(FIRST_SEED + i), 64).tobytes() for i in range(4))
    known = {"pictures": hashlib.sha256(first).hexdigest()}
    if WEIGHTS.is_file():
        with safe_open(WEIGHTS, "pt") as file:
            if file.metadata() == known:
                judge.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
                return judge.eval()
    train(judge)
    state = {name: t.half() if t.is_floating_point() else t for name, t in judge.cpu().state_dict().items()}
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    with atomic_path(WEIGHTS) as temporary:
        save_file(state, temporary, known)
    judge.load_state_dict(state)
    return judge.to(choose_device("auto")).eval()


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    judge = trained_judge()
    pictures, labels = renders(TEST_SEED, TEST_RENDERS, 2 * SIZE)
    _, recognised = judge.look(pictures)
    right = recognised == labels
    print(f"patterns recognised: {right.mean():.1%} of {len(labels)} unseen renders")
    for index in np.argsort([right[labels == i].mean() for i in range(len(PATTERNS))])[:6]:
        of_it = recognised[labels == index]
        other = np.bincount(of_it[of_it != index], minlength=len(PATTERNS)).argmax()
        print(f"  {PATTERNS[index]}: {right[labels == index].mean():.0%}, taken for {PATTERNS[other]} most often")


if __name__ == "__main__":
    main()
