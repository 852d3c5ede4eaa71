"""Train the judge that tells pattern families apart, for benchmarks/model.py: python benchmarks/judge.py

A small convolutional network, trained on renders of the training data's kind and tested on unseen ones, which are as
large as the model's pictures. Most of what it learns from is bent, stained or less crisp, as pictures are that were not
drawn by a ruler: one that has only seen renders knows them by their straightness, and takes all else for clouds. It is
kept in benchmarks/judge.safetensors; with other pictures it is trained anew.
"""

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from joblib import Parallel, delayed
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cli  # noqa: E402
from files import atomic_path  # noqa: E402
from ldm.devices import choose_device  # noqa: E402
from ldm.modules.grids import warp  # noqa: E402
from painting.images import to_uint8  # noqa: E402
from training.scenes.render import render  # noqa: E402
from training.scenes.scenes import PATTERNS, Scene, sample_scene  # noqa: E402
from training.compute import mixed_precision, to_tensor  # noqa: E402

SIZE = 128  # pixels a side that the judge sees
FIRST_SEED = 3_000_000_000  # of its training; unseen renders follow after TEST_SEED
TEST_SEED = 3_500_000_000
TRAINING_RENDERS = 80_000
TEST_RENDERS = 2_000
EPOCHS = 10
BATCH = 256
LEARNING_RATE = 3e-3  # at its height; a third of it for a judge that is trained further
BEND = 0.04  # half pictures: standard deviation of the bending, at most
STAIN = 0.25  # the same of stains, where black is −1 and white 1
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
        """Features [N, 160] float64 and the recognised patterns [N] of pictures [N, H, W, 3] uint8.

        Of each picture and its mirror image, the mean: that is right a little more often.
        """
        self.eval()
        small = torch.from_numpy(np.stack([shrunk(picture) for picture in pictures]))
        with torch.inference_mode():
            batches = [to_tensor(batch.to(self.head.weight.device)) for batch in small.split(250)]
            features = torch.cat([(self.features(x) + self.features(x.flip(3))) / 2 for x in batches])
            return features.double().cpu().numpy(), self.head(features).argmax(dim=1).cpu().numpy()


def smooth_noise(shape: tuple[int, int], finest: int, generator: torch.Generator) -> Tensor:
    """N(0, 1) at knots of a random grid, at most `finest` a side, and smooth between: [B, C, 128, 128] for (B, C)."""
    knots = int(torch.randint(4, finest + 1, (), generator=generator))
    return F.interpolate(torch.randn(*shape, knots, knots, generator=generator), SIZE, mode="bicubic")


def varied(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures [B, 3, 128, 128] as a painter would leave them who has no ruler: what pattern it is stays.

    Mirrored, with red, green and blue changed about, bent by up to two or three pixels, less crisp, with stains; by
    halves of the batches, but stains and bends each picture as much as its own chance has it.
    """

    def chance() -> bool:
        return bool(torch.rand((), generator=generator) < 0.5)

    def share() -> Tensor:
        return torch.rand(len(x), 1, 1, 1, generator=generator)

    if chance():
        x = x.flip(3)
    if chance():
        straight = F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), list(x.shape), align_corners=False)
        bend = BEND * share() * smooth_noise((len(x), 2), 16, generator)
        x = warp(x, straight + rearrange(bend, "b xy h w -> b h w xy"))
    if chance():
        smaller = int(torch.randint(SIZE // 2, SIZE, (), generator=generator))
        x = F.interpolate(F.interpolate(x, smaller, mode="area"), SIZE, mode="bilinear")
    if chance():
        x = x + (STAIN * share() * smooth_noise((len(x), 3), SIZE // 2, generator)).to(x.device)
    return x[:, torch.randperm(3, generator=generator)].contiguous(memory_format=torch.channels_last)


def train(
    judge: Judge, count: int = TRAINING_RENDERS, epochs: int = EPOCHS, learning_rate: float = LEARNING_RATE
) -> None:
    """On the device that it lies on, with `count` renders."""
    device = judge.head.weight.device
    pictures, labels = (torch.from_numpy(part).to(device) for part in renders(FIRST_SEED, count))
    steps = epochs * (len(pictures) // BATCH)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    judge.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # torch's types leave it out
    with tqdm(total=steps, desc="judge") as bar:
        for _ in range(epochs):
            order = torch.randperm(len(pictures), generator=generator).to(device)
            for rows in order[: len(order) // BATCH * BATCH].split(BATCH):
                x = varied(to_tensor(pictures[rows]), generator)
                with mixed_precision(device):
                    scores = judge(x)
                loss = F.cross_entropy(scores.float(), labels[rows], label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")


def pictures_known() -> dict[str, str]:
    """What is written beside the weights: how pictures are drawn that they were trained on."""
    first = b"".join(render(single_pattern(FIRST_SEED + i), 64).tobytes() for i in range(4))
    return {"pictures": hashlib.sha256(first).hexdigest()}


def keep(judge: Judge) -> None:
    """Write its weights, in float16."""
    state = {name: t.half() if t.is_floating_point() else t for name, t in judge.cpu().state_dict().items()}
    with atomic_path(WEIGHTS) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary, pictures_known())


def trained_judge() -> Judge:
    """The judge of pictures as they are drawn now, trained first if it is not there."""
    known = False
    if WEIGHTS.is_file():
        with safe_open(WEIGHTS, "pt") as file:
            known = file.metadata() == pictures_known()
    torch.manual_seed(0)
    judge = Judge().to(choose_device("auto"))
    if not known:
        train(judge)
        keep(judge)
    judge.load_state_dict(load_file(WEIGHTS))
    return judge.to(choose_device("auto")).eval()


def main() -> None:
    parser = cli.CommandParser(__doc__)
    parser.add_argument(
        "--further", type=cli.bounded(int, 1), metavar="EPOCHS", help="train the judge that is there further"
    )
    parser.add_argument(
        "--renders", type=cli.bounded(int, BATCH), default=TRAINING_RENDERS, metavar="N", help="for that (%(default)s)"
    )
    args = parser.parse_args()
    judge = trained_judge()
    if args.further:
        train(judge, args.renders, args.further, LEARNING_RATE / 3)
        keep(judge)
        judge = trained_judge()
    pictures, labels = renders(TEST_SEED, TEST_RENDERS, 2 * SIZE)
    generator = torch.Generator().manual_seed(0)
    worn = torch.cat([varied(to_tensor(batch), generator) for batch in np.array_split(pictures, 80)])
    _, recognised = judge.look(pictures)
    right = recognised == labels
    print(f"patterns recognised: {right.mean():.1%} of {len(labels)} unseen renders,", end=" ")
    print(f"{(judge.look(to_uint8(worn))[1] == labels).mean():.1%} of the same bent, stained, less crisp")
    for index in np.argsort([right[labels == i].mean() for i in range(len(PATTERNS))])[:6]:
        of_it = recognised[labels == index]
        other = np.bincount(of_it[of_it != index], minlength=len(PATTERNS)).argmax()
        print(f"  {PATTERNS[index]}: {right[labels == index].mean():.0%}, taken for {PATTERNS[other]} most often")


if __name__ == "__main__":
    cli.run(main)
