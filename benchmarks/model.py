"""What the built-in model can do: python benchmarks/model.py [--pictures 100]

Prints how well its first stage gives back unseen renders, how often both colours named in a prompt are among the
dominant ones of the picture, beside the same for renders of the training data, and how long loading and painting take.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import config  # noqa: E402
from ldm.data.palette import COLOURS, srgb_to_oklab  # noqa: E402
from ldm.data.pictures import render  # noqa: E402
from ldm.data.scenes import Scene, sample_scene  # noqa: E402
from ldm.models.diffusion.sampling import seeded_noise  # noqa: E402
from ldm.painter import Painter, choose_device, choose_precision  # noqa: E402
from ldm.spec import PictureSpec  # noqa: E402
from ldm.train import to_tensor  # noqa: E402

UNSEEN = 2**31  # seeds from here on are in no training
NAMES = tuple(COLOURS)
NAMED_LAB = srgb_to_oklab(np.array([COLOURS[name] for name in NAMES]) / 255)
CLUSTERS = 6
DOMINANT = 0.05  # share of the picture
BATCH = 4


def dominant_colours(picture: np.ndarray) -> set[str]:
    """Names of the colours nearest to the k-means centres, in Oklab, that hold 5 % or more of [H, W, 3] uint8."""
    small = cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA)
    pixels = srgb_to_oklab(small.reshape(-1, 3) / 255).astype(np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 30, 1e-3)
    cv2.setRNGSeed(0)
    _, labels, centres = cv2.kmeans(pixels, CLUSTERS, None, criteria, 3, cv2.KMEANS_PP_CENTERS)
    shares = np.bincount(labels.ravel(), minlength=CLUSTERS) / len(pixels)
    nearest = np.linalg.norm(centres[:, None] - NAMED_LAB, axis=2).argmin(axis=1)
    return {NAMES[name] for name, share in zip(nearest, shares, strict=True) if share >= DOMINANT}


def prompt_of(scene: Scene) -> str:
    """Pattern and two colours in one plain wording."""
    return f"a {scene.colours[0]} and {scene.colours[1]} {scene.pattern}"


def spec_of(prompt: str, seed: int, precision: str) -> PictureSpec:
    return PictureSpec(prompt, "", seed, None, "dpmpp", 20, 4.0, 0.0, (0.0, 1.0), 256, 256, "raw", 1.0, precision)


def psnr(painter: Painter, pictures: np.ndarray) -> float:
    """Mean peak signal-to-noise ratio, dB, of reconstructions of [N, H, W, 3]."""
    values = []
    for picture in tqdm(pictures, "first stage"):
        x = to_tensor(picture[None]).to(painter.device)
        with torch.inference_mode():
            y = painter.model.decode_first_stage(painter.model.encode_first_stage(x.to(painter.model.dtype))).clamp(
                -1, 1
            )
        values.append(-10 * ((x - y) / 2).pow(2).mean().log10().item())
    return statistics.mean(values)


def seconds_a_picture(painter: Painter, precision: str) -> float:
    """Median of five at batch 1, 20 guided steps, decoding included."""
    times = []
    for seed in range(6):
        start = time.perf_counter()
        painter.paint([spec_of("a red flower", seed, precision)], seeded_noise([seed], config.LATENT_SHAPE))
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100, metavar="N")
    count = parser.parse_args().pictures
    device = choose_device("auto")
    precision = choose_precision("auto", device)
    start = time.perf_counter()
    painter = Painter(config.BUILTIN_MODEL_WEIGHTS, None, precision, device)
    loading = time.perf_counter() - start

    scenes = [sample_scene(UNSEEN + i, figure_share=0) for i in range(count)]
    renders = np.stack([render(scene) for scene in scenes])
    samples = []
    for first in tqdm(range(0, count, BATCH), "painting"):
        seeds = list(range(first, min(first + BATCH, count)))
        specs = [spec_of(prompt_of(scenes[seed]), seed, precision) for seed in seeds]
        samples.extend(painter.paint(specs, seeded_noise(seeds, config.LATENT_SHAPE)))

    def both_named(pictures: "list[np.ndarray] | np.ndarray") -> float:
        hits = [
            set(scene.colours[:2]) <= dominant_colours(picture) for scene, picture in zip(scenes, pictures, strict=True)
        ]
        return statistics.mean(hits)

    print(f"first stage: {psnr(painter, renders):.1f} dB PSNR on {count} unseen renders")
    print(
        f"both named colours among the dominant ones: {both_named(samples):.0%}, in renders {both_named(renders):.0%}"
    )
    print(f"{precision} on {device}: loading {loading:.2f} s, a picture {seconds_a_picture(painter, precision):.2f} s")


if __name__ == "__main__":
    main()
