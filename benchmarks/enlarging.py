"""Measure how images are enlarged: python -m benchmarks.enlarging [--renders N] [--images N]

Draws N unseen scenes at 256 and at 1024 pixels, enlarges the small renders four times, and compares with the large
ones: PSNR, beside that of cubic interpolation, and the width of edges (10 to 90 % of the step), over that of the large
render. This for renders as they are, and as the first stage decodes them. Then prints the time of images of 1024×1024
pixels, over that of images of 256×256, by turns.
"""

import argparse
import statistics
import time

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

import cli
from benchmarks.builtin_model import BuiltinModel
from benchmarks.model import UNSEEN
from painting.enlarging import fitted
from painting.images import to_uint8
from painting.painter import spec_for
from training.compute import to_tensor
from training.first_stage import RENDER_SIZE, psnr
from training.scenes.render import render
from training.scenes.scenes import sample_scene

FACTOR = 4
EDGES = 200  # the steepest places of a render whose edges are measured
REACH = 24  # pixels on either side of an edge that its step is looked for in
LEAST_STEP = 40.0  # grey levels; lower steps are no edges
APART = 12  # pixels between two edges


def edge_widths(truth: np.ndarray, images: list[np.ndarray]) -> list[list[float]]:
    """Measure the width in pixels of the same edges in `truth` and in each of `images`, all [H, W, 3] uint8.

    An edge is a steep place of the truth. Its width is the distance from 10 to 90 % of the step along the gradient,
    between the levels that each image has there on either side.
    """
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) for image in (truth, *images)]
    dx, dy = (cv2.Sobel(grey[0], cv2.CV_32F, *order, ksize=3) for order in ((1, 0), (0, 1)))
    strength = np.hypot(dx, dy)
    strength[:REACH], strength[-REACH:], strength[:, :REACH], strength[:, -REACH:] = 0, 0, 0, 0
    widths: list[list[float]] = [[] for _ in grey]
    for _ in range(EDGES):
        y, x = np.unravel_index(int(strength.argmax()), strength.shape)
        if strength[y, x] < LEAST_STEP:
            break
        direction = np.array([dx[y, x], dy[y, x]]) / np.hypot(dx[y, x], dy[y, x])
        strength[max(y - APART, 0) : y + APART, max(x - APART, 0) : x + APART] = 0
        each = [step_width(image, int(x), int(y), direction) for image in grey]
        if all(width is not None for width in each):
            for found, width in zip(widths, each, strict=True):
                found.append(width or 0.0)
    return widths


def step_width(grey: np.ndarray, x: int, y: int, direction: np.ndarray) -> float | None:
    """Return the distance in pixels from 10 to 90 % of the step at (x, y); None if there is no clear step."""
    t = np.arange(-REACH, REACH + 0.01, 0.25, dtype=np.float32)
    line = cv2.remap(grey, (x + t * direction[0])[None], (y + t * direction[1])[None], cv2.INTER_LINEAR)[0]
    middle = len(t) // 2
    low, high = middle, middle  # the ends of the rising part around the middle
    while low > 0 and line[low - 1] < line[low]:
        low -= 1
    while high < len(t) - 1 and line[high + 1] > line[high]:
        high += 1
    step = line[high] - line[low]
    if step < LEAST_STEP:
        return None
    part = line[low : high + 1]
    ten, ninety = (np.interp(line[low] + share * step, part, t[low : high + 1]) for share in (0.1, 0.9))
    return float(ninety - ten)


def compare(small: Tensor, large: np.ndarray) -> tuple[float, float, list[list[float]]]:
    """Return PSNR in dB of the enlarged `small` [1, 3, H, W] and of the cubic one, and widths of edges."""
    truth = to_tensor(large[None])
    ours = fitted(small, *large.shape[:2]).clamp(-1, 1)
    smooth = interpolate(small, scale_factor=FACTOR, mode="bicubic").clamp(-1, 1)
    widths = edge_widths(large, [to_uint8(ours)[0], to_uint8(smooth)[0]])
    return psnr(truth, ours).item(), psnr(truth, smooth).item(), widths


def measure_renders(model: BuiltinModel, renders: int) -> None:
    """Print PSNR and widths of edges for both kinds of small image."""
    found: dict[str, list[tuple[float, float, list[list[float]]]]] = {"render": [], "decoded render": []}
    network = model.painter.model.float()
    for seed in tqdm(range(UNSEEN, UNSEEN + renders), "renders"):
        scene = sample_scene(seed)
        large = render(scene, FACTOR * RENDER_SIZE)
        small = to_tensor(render(scene, RENDER_SIZE)[None])
        latents = network.encode_first_stage(small.to(model.painter.device))
        decoded = network.decode_first_stage(latents).clamp(-1, 1).cpu()
        for rows, version in zip(found.values(), (small, decoded), strict=True):
            rows.append(compare(version, large))
    print("| small image | PSNR | cubic | edges, over true ones | of cubic |")
    print("| --- | --- | --- | --- | --- |")
    for kind, rows in found.items():
        ours, smooth = np.mean([row[:2] for row in rows], axis=0)
        true, enlarged, cubic = (np.median(np.concatenate([row[2][i] for row in rows])) for i in range(3))
        print(f"| {kind} | {ours:.2f} dB | {smooth:.2f} dB | {enlarged / true:.2f} | {cubic / true:.2f} |")


def measure_time(model: BuiltinModel, images: int) -> None:
    """Print the time of small and of large images."""
    x_T = torch.randn(1, *model.painter.latent_shape(RENDER_SIZE, RENDER_SIZE))
    seconds: dict[int, list[float]] = {RENDER_SIZE: [], FACTOR * RENDER_SIZE: []}
    for _ in range(images + 1):
        for size, times in seconds.items():
            spec = spec_for(model.painter, "a blue butterfly", height=size, width=size)
            start = time.perf_counter()
            model.painter.paint([spec], x_T)
            times.append(time.perf_counter() - start)
    small, large = (statistics.median(times[1:]) for times in seconds.values())  # the first one warms up
    print(
        f"\nan image of 1024×1024 pixels: {large:.2f} s, {large / small:.2f} × the {small:.2f} s of 256×256, in "
        f"{model.painter.precision}"
    )


@torch.inference_mode()
def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--renders", type=cli.bounded(int, 1), default=100, metavar="N", help="default: %(default)s")
    parser.add_argument("--images", type=cli.bounded(int, 1), default=5, metavar="N", help="default: %(default)s")
    args = parser.parse_args(argv)
    model = BuiltinModel()
    measure_time(model, args.images)
    measure_renders(model, args.renders)


if __name__ == "__main__":
    cli.run(main)
