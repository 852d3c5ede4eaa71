"""Train the network that recognises pattern families for benchmarks/model.py: python -m benchmarks.pattern_classifier

A small convolutional network. It learns from renders of the training data's kind, and is tested on unseen ones that are
as large as the model's images. Most of the renders are bent, stained or blurred, as images are that no ruler drew: a
network that has seen only clean renders recognises them by their straight edges, and calls all else clouds. The weights
are kept in benchmarks/pattern_classifier.safetensors; if the drawing code changes, they are trained anew.
"""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

import cli
from files import atomic_path
from ldm.devices import choose_device
from ldm.modules.grids import warp
from painting.images import to_uint8
from training.compute import mixed_precision, to_tensor
from training.scenes.render import render
from training.scenes.render_cache import fingerprint, render_chunks
from training.scenes.scenes import PATTERNS, Scene, sample_scene

SIZE = 128  # pixels a side of the network's input
FIRST_SEED = 3_000_000_000  # of the training renders
TEST_SEED = 3_500_000_000  # of the unseen renders
TRAINING_RENDERS = 80_000
TEST_RENDERS = 2_000
EPOCHS = 10
BATCH = 256
LEARNING_RATE = 3e-3  # peak of the schedule; a third of it for further training
BEND = 0.04  # largest standard deviation of the displacement, in half image widths
STAIN = 0.25  # the same of stains; black is −1 and white is 1
WEIGHTS = Path(__file__).with_name("pattern_classifier.safetensors")


def single_pattern(seed: int) -> Scene:
    """Return a scene of one pattern without a figure: that of `seed`, or of `seed` plus a multiple of a million."""
    while (scene := sample_scene(seed, figure_share=0)).second:
        seed += 1_000_000
    return scene


def shrink(image: np.ndarray) -> np.ndarray:
    """Shrink an image [H, W, 3] uint8 to the size of the network's input."""
    return cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def labelled_renders(first_seed: int, count: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Draw single patterns: renders [count, 128, 128, 3] uint8, and their indices [count] in `PATTERNS`.

    Args:
        size: pixels a side at which they are drawn.
    """
    images = []
    with tqdm(total=count, desc="rendering") as bar:
        for chunk in render_chunks(first_seed, count, size, scene_of=single_pattern):
            images += [shrink(image) for image in chunk]
            bar.update(len(chunk))
    seeds = range(first_seed, first_seed + count)
    return np.stack(images), np.array([PATTERNS.index(single_pattern(seed).pattern) for seed in seeds])


class _Block(nn.Module):
    """Two 3×3 convolutions with a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class PatternClassifier(nn.Module):
    """Classifies images [B, 3, 128, 128] in −1…1: features [B, 160], then one logit a pattern."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 5, stride=2, padding=2), _Block(32),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), _Block(64),
            nn.Conv2d(64, 128, 3, stride=2, padding=1), _Block(128),
            nn.Conv2d(128, 160, 3, stride=2, padding=1), _Block(160), nn.BatchNorm2d(160), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(160, len(PATTERNS))

    def features(self, x: Tensor) -> Tensor:
        """Compute features [B, 160] of images [B, 3, 128, 128]."""
        return self.body(x).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def classify(self, images: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return features [N, 160] float64 and the recognised patterns [N] of images [N, H, W, 3] uint8.

        Features are averaged over an image and its mirror image, which is right a little more often.
        """
        self.eval()
        small = torch.from_numpy(np.stack([shrink(image) for image in images]))
        with torch.inference_mode():
            batches = [to_tensor(batch.to(self.head.weight.device)) for batch in small.split(250)]
            features = torch.cat([(self.features(x) + self.features(x.flip(3))) / 2 for x in batches])
            return features.double().cpu().numpy(), self.head(features).argmax(dim=1).cpu().numpy()


def smooth_noise(shape: tuple[int, int], finest: int, generator: torch.Generator) -> Tensor:
    """Draw N(0, 1) at 4 to `finest` knots a side, interpolated: [B, C, 128, 128] for `shape` (B, C)."""
    knots = int(torch.randint(4, finest + 1, (), generator=generator))
    return F.interpolate(torch.randn(*shape, knots, knots, generator=generator), SIZE, mode="bicubic")


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Change images [B, 3, 128, 128] without changing their pattern.

    Each change applies to half of the batches: mirrored, bent by up to two or three pixels, blurred, stained. Bending
    and stains have their own strength in each image. Red, green and blue are always permuted.
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
    classifier: PatternClassifier,
    count: int = TRAINING_RENDERS,
    epochs: int = EPOCHS,
    learning_rate: float = LEARNING_RATE,
) -> None:
    """Train the network on its device with `count` renders."""
    device = classifier.head.weight.device
    images, labels = (torch.from_numpy(part).to(device) for part in labelled_renders(FIRST_SEED, count))
    steps = epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    classifier.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # torch's types lack it
    with tqdm(total=steps, desc="training") as bar:
        for _ in range(epochs):
            order = torch.randperm(len(images), generator=generator).to(device)
            for rows in order[: len(order) // BATCH * BATCH].split(BATCH):
                x = augment(to_tensor(images[rows]), generator)
                with mixed_precision(device):
                    logits = classifier(x)
                loss = F.cross_entropy(logits.float(), labels[rows], label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")


def metadata() -> dict[str, str]:
    """Return what is stored with the weights: a fingerprint of the drawing code that they were trained on."""
    return {"pictures": fingerprint(render(single_pattern(FIRST_SEED + i), 64) for i in range(4))}


def save(classifier: PatternClassifier) -> None:
    """Write the weights in float16."""
    state = {name: t.half() if t.is_floating_point() else t for name, t in classifier.cpu().state_dict().items()}
    with atomic_path(WEIGHTS) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary, metadata())


def trained_classifier() -> PatternClassifier:
    """Load the network, or train it if its file is missing or was made with other drawing code."""
    known = False
    if WEIGHTS.is_file():
        with safe_open(WEIGHTS, "pt") as file:
            known = file.metadata() == metadata()
    torch.manual_seed(0)
    classifier = PatternClassifier().to(choose_device("auto"))
    if not known:
        train(classifier)
        save(classifier)
    classifier.load_state_dict(load_file(WEIGHTS))
    return classifier.to(choose_device("auto")).eval()


def print_accuracy(classifier: PatternClassifier) -> None:
    """Print the share of unseen renders that are recognised, and the patterns that are recognised least."""
    images, labels = labelled_renders(TEST_SEED, TEST_RENDERS, 2 * SIZE)
    generator = torch.Generator().manual_seed(0)
    changed = torch.cat([augment(to_tensor(batch), generator) for batch in np.array_split(images, 80)])
    _, recognised = classifier.classify(images)
    right = recognised == labels
    print(f"patterns recognised: {right.mean():.1%} of {len(labels)} unseen renders,", end=" ")
    print(f"{(classifier.classify(to_uint8(changed))[1] == labels).mean():.1%} of the same bent, stained, less crisp")
    for index in np.argsort([right[labels == i].mean() for i in range(len(PATTERNS))])[:6]:
        of_it = recognised[labels == index]
        other = np.bincount(of_it[of_it != index], minlength=len(PATTERNS)).argmax()
        print(f"  {PATTERNS[index]}: {right[labels == index].mean():.0%}, most often taken for {PATTERNS[other]}")


def main() -> None:
    """Run the command line."""
    parser = cli.CommandParser(__doc__)
    add = parser.add_argument
    add("--further", type=cli.bounded(int, 1), metavar="EPOCHS", help="train the existing network further")
    add("--renders", type=cli.bounded(int, BATCH), default=TRAINING_RENDERS, metavar="N", help="for that (%(default)s)")
    args = parser.parse_args()
    classifier = trained_classifier()
    if args.further:
        train(classifier, args.renders, args.further, LEARNING_RATE / 3)
        save(classifier)
        classifier = trained_classifier()
    print_accuracy(classifier)


if __name__ == "__main__":
    cli.run(main)
