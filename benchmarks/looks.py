"""Measure what images of open prompts look like: python -m benchmarks.looks SOURCE [--voices 100] [--sheet F]

SOURCE holds recordings, as for benchmarks/voice.py; x_T come from those that are in no calibration.

dull     the share of images of the default prompt of which two of three measures are below a third of their median
         over images of the same voices with "kaleidoscope, magenta, yellow, black". The measures are the contrast (the
         standard deviation of the lightness), the edges (the mean gradient of the lightness), and the number of colours
         (cells of 0.05 a side in Oklab that hold half a percent of the pixels or more). The sheet shows all images, the
         dullest first.
variety  the median distance of two images of the default prompt, RMS of 16×16 thumbnails in 0…1
twins    the share of pairs of voices whose images look the same: the cosine of their grey thumbnails, from which the
         mean image is subtracted, is above 0.8; in five prompts with named colours
"""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.distance import pdist

import cli
from benchmarks.builtin_model import BuiltinModel, thumbnails
from benchmarks.model import x_T_of_recordings
from painting.colours import srgb_to_oklab
from painting.image_spec import ImageSpec
from painting.images import grid

RICH = "kaleidoscope, magenta, yellow, black"
NAMED = (
    "mandala, orange and teal",
    "a golden spiral on purple",
    "calm blue and turquoise waves",
    "green and white labyrinth",
    "red and black feathers",
)
DULL = 1 / 3  # of the median
CELL, SHARE = 0.05, 0.005  # of Oklab, and of the pixels
SAME = 0.8
COLUMNS, SHOWN = 20, 96  # of the sheet: images a row, and their pixels a side


def measures(image: np.ndarray) -> tuple[float, float, int]:
    """Measure contrast, edges and number of colours of an image [H, W, 3] uint8."""
    lab = srgb_to_oklab(image / 255)
    down, right = np.gradient(lab[..., 0])
    _, counts = np.unique(np.floor(lab.reshape(-1, 3) / CELL), axis=0, return_counts=True)
    return lab[..., 0].std(), np.hypot(down, right).mean(), int((counts >= SHARE * counts.sum()).sum())


def twins(images: np.ndarray) -> float:
    """Compute the share of pairs of images [N, H, W, 3] uint8 that look the same."""
    grey = thumbnails(images).mean(axis=3).reshape(len(images), -1)
    return float((1 - pdist(grey - grey.mean(axis=0), "cosine") > SAME).mean())


def save_sheet(images: np.ndarray, order: np.ndarray, path: Path) -> None:
    """Write a PNG with all images, in an order."""
    small = [np.asarray(Image.fromarray(images[row]).resize((SHOWN, SHOWN), Image.Resampling.BOX)) for row in order]
    Image.fromarray(grid(np.stack(small), columns=COLUMNS)).save(path)


def main() -> None:
    """Run the command line."""
    parser = cli.CommandParser(__doc__)
    add = parser.add_argument
    add("source", type=cli.existing_folder, metavar="SOURCE", help="see above")
    add("--voices", type=cli.bounded(int, 3), default=100, metavar="N", help="images of each prompt (default: 100)")
    add("--sheet", type=cli.new_file(".png"), metavar="F", help="also write all images of the default prompt")
    args = parser.parse_args()
    model, x_T = BuiltinModel(), x_T_of_recordings(args.source.resolve(), args.voices)
    images, rich = (model.paint([prompt] * len(x_T), x_T) for prompt in (ImageSpec.prompt, RICH))
    found = np.array([measures(image) for image in images]) / np.median([measures(image) for image in rich], axis=0)
    dull = (found < DULL).sum(axis=1) >= 2
    of_each = ", ".join(f"{value:.2f}" for value in np.median(found, axis=0))
    print(f"dull: {dull.mean():.1%} of {len(images)}; contrast, edges, colours over those of {RICH!r}: {of_each}")
    distances = pdist(thumbnails(images).reshape(len(images), -1)) / np.sqrt(thumbnails(images[:1]).size)
    print(f"variety: {np.median(distances):.3f}", flush=True)
    if args.sheet:
        save_sheet(images, np.sort(found, axis=1)[:, 1].argsort(), args.sheet)
    for prompt in NAMED:
        print(f"twins: {twins(model.paint([prompt] * len(x_T), x_T)):.1%} of pairs, {prompt}", flush=True)


if __name__ == "__main__":
    cli.run(main)
