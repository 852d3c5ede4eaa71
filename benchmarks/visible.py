"""Measure whether an image shows its voice: python -m benchmarks.visible --digits DIR --words DIR [--images N]

--digits and --words: the recordings of benchmarks/again.py, which are not in the built-in calibration. Images are those
of the default prompt by the built-in model, of --steps steps.

again   the cosine of thumbnails (16×16, the mean image subtracted) of one speaker who says one digit again, and of two
        speakers and two digits
seen    Spearman's rank correlation of each named quality with its own measure in the image: the part of the wash that
        docs/x_T.md gives it
whose   from an image, which of two voices made it, by a fixed rule: the voice whose qualities, laid out as documented,
        correlate more with the image, of which the mean of all images is subtracted
shape   --layout_strength 0.5 and prompts of two colours: the cosine of the first colour's map (Lab, from the second
        colour to the first) with the spectrogram as cards show it, both of 8×8 lowest frequencies; and how often that
        is the largest among six voices
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr

import cli
import config
from audio import initial_noise
from audio.calibration import voice_latents
from audio.description import places_of
from audio.qualities import NAMES
from audio.whitening import WHITENING_NAME, Whitening
from benchmarks import sounds
from benchmarks.again import ALIKE, RATE, SAME, TAKES, words_of
from benchmarks.voice import cosines_of, with_seed
from ldm.models.diffusion.sampling import seeded_noise
from ldm.modules.wash import DIRECTIONS, OFFICES
from painting.api import load_painter
from painting.image_spec import ImageSpec
from painting.painter import spec_for

SHAPES = 102  # voices with a shape
LAYOUT_STRENGTH = 0.5
TWO_COLOURS = {  # the first and the second colour of prompts, in red, green and blue
    "a golden spiral on purple": ((212, 175, 55), (128, 0, 128)),
    "clouds in orange and navy": ((255, 165, 0), (0, 0, 128)),
}
THUMBNAIL = 16
SHEET = 128  # pixels of an image on a sheet
SHEET_DIGITS = ("2", "7")
BY_PITCH = 16  # images ordered by pitch


class Voices:
    """Recordings, what is named of them, and their images."""

    def __init__(self, recordings: Sequence[np.ndarray], steps: int) -> None:
        whitening = Whitening.load(config.BUILTIN_CALIBRATION_DIR / WHITENING_NAME)
        self.qualities, x = [], []
        for sound in recordings:
            made = voice_latents(sound, config.BUILTIN_CALIBRATION_DIR, config.RECIPE, RATE)
            x.append(whitening.whiten(made.latents, heard=[made.heard])[0])
            places = places_of(whitening, made.latents, [made.heard])[0]
            self.qualities.append([places.get(name, np.nan) for name in NAMES])
        painter = load_painter()
        spec = spec_for(painter, ImageSpec.prompt, steps=steps)
        self.images = np.concatenate(
            [painter.paint([spec], torch.from_numpy(one[None])) for one in with_seed(np.stack(x))]
        )

    def thumbnails(self) -> np.ndarray:
        """Return [N, THUMBNAIL² · 3] in −1…1."""
        small = [Image.fromarray(one).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX) for one in self.images]
        return np.stack([np.asarray(one, np.float64) for one in small]).reshape(len(small), -1) / 127.5 - 1

    def parts(self) -> np.ndarray:
        """Measure the offices of the qualities in the images: [N, Q], in the sense of the qualities."""
        axis = (np.arange(THUMBNAIL) + 0.5) * 2 / THUMBNAIL - 1
        right, down = np.meshgrid(axis, axis)
        middle = -(right**2 + down**2)
        fields = np.stack([np.ones_like(right), right, down, middle - middle.mean()])
        pixels = self.thumbnails().reshape(-1, THUMBNAIL, THUMBNAIL, 3)
        found = np.einsum("nhwk,dk,fhw->ndf", pixels, np.array(DIRECTIONS), fields)
        return np.stack([np.sign(strength) * found[:, way, field] for way, field, strength in OFFICES], axis=1)


def print_again(folder: Path, options: argparse.Namespace) -> None:
    """Print how alike are images of one speaker and digit."""
    paths = [
        path for path in sorted(folder.glob("*_*_*.wav")) if int(path.stem.split("_")[2]) in TAKES[: options.takes]
    ]
    said = np.array([path.stem.split("_")[:2] for path in paths])
    voices = Voices(sounds.read(paths), options.steps)
    thumbnails = voices.thumbnails()
    rows = thumbnails - thumbnails.mean(axis=0)
    first, second = np.triu_indices(len(rows), 1)
    cosines, equal = cosines_of(rows, rows)[first, second], said[first] == said[second]
    print(
        f"| {len(rows)} digits, {options.steps} steps | median cosine | above {SAME} | above {ALIKE} |\n"
        + "| --- " * 4
        + "|"
    )
    for name, some in (("same speaker, same digit", equal.all(axis=1)), ("two of each", ~equal.any(axis=1))):
        pairs = cosines[some]
        print(f"| {name} | {np.median(pairs):.2f} | {np.mean(pairs > SAME):.1%} | {np.mean(pairs > ALIKE):.1%} |")
    if options.sheets:
        sheet = [
            np.concatenate([np.flatnonzero((said == (digit, who)).all(axis=1))[:3] for digit in SHEET_DIGITS])
            for who in np.unique(said[:, 1])
        ]
        save_sheet(options.sheets / "again.png", voices.images, sheet)


def evenly(paths: Sequence[Path], count: int) -> list[Path]:
    """Choose at most `count` of the paths, evenly spaced."""
    places = np.linspace(0, len(paths) - 1, min(count, len(paths)))
    return [paths[place] for place in places.round().astype(int)]


def save_sheet(path: Path, images: np.ndarray, rows: Sequence[np.ndarray]) -> None:
    """Save images [N, H, W, 3] as a sheet, one row of numbers a line."""
    small = [[np.asarray(Image.fromarray(images[number]).resize((SHEET, SHEET))) for number in row] for row in rows]
    Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in small])).save(path)


def print_seen(source: Path, options: argparse.Namespace) -> None:
    """Print how far images show the qualities of voices, and tell whose they are."""
    words, _ = words_of(source)
    voices = Voices(sounds.read(evenly(words, options.images)), options.steps)
    parts, qualities = voices.parts(), np.stack(voices.qualities)
    print(f"\n| quality, of {len(parts)} words | rank correlation with its measure in the image |\n| --- | --- |")
    for number, name in enumerate(NAMES):
        print(f"| {name} | {spearmanr(qualities[:, number], parts[:, number], nan_policy='omit').statistic:.2f} |")
    if options.sheets:
        ordered = np.argsort(qualities[:, NAMES.index("pitch")])  # voices without a pitch come last: they have NaN
        known = ordered[: np.isfinite(qualities[:, NAMES.index("pitch")]).sum()]
        rows = np.array_split(known[np.linspace(0, len(known) - 1, BY_PITCH).round().astype(int)], 2)
        save_sheet(options.sheets / "pitch.png", voices.images, rows)
    # the rule: what is expected of each voice, from its places among all voices, as strong as documented
    expected = (np.nan_to_num(qualities, nan=50.0) / 50 - 1) * np.abs([strength for *_, strength in OFFICES])
    fit = cosines_of(parts - parts.mean(axis=0), expected)
    pairs = [*itertools.combinations(range(len(parts)), 2)]
    right = np.mean([np.mean([fit[a, a] > fit[a, b], fit[b, b] > fit[b, a]]) for a, b in pairs])
    print(f"whose of two voices an image is: right in {right:.0%}")


def print_shapes(source: Path, options: argparse.Namespace) -> None:
    """Print how far images with a layout strength show the spectrograms of their voices."""
    words, _ = words_of(source)
    sounds_read = sounds.read(evenly(words, SHAPES))
    made = [voice_latents(one, config.BUILTIN_CALIBRATION_DIR, config.RECIPE, RATE) for one in sounds_read]
    whitening = Whitening.load(config.BUILTIN_CALIBRATION_DIR / WHITENING_NAME)
    voices = initial_noise.Voices(
        np.concatenate([one.latents for one in made]), whitening, heard=[one.heard for one in made]
    )
    shapes = np.stack([voices.sound_shape(row).ravel() for row in range(len(made))])
    noise, painter = seeded_noise([0], made[0].latents.shape[1:])[0].numpy(), load_painter()
    basis = initial_noise.cosine_basis(256)
    print(f"\n| {len(made)} words, layout strength {LAYOUT_STRENGTH} | cosine | of another voice | found among six |")
    print("| --- " * 4 + "|")
    for prompt, colours in TWO_COLOURS.items():
        spec = spec_for(painter, prompt, steps=options.steps)
        first, second = lab(np.array(colours, np.uint8)[None])[0]
        seen = []
        for row in range(len(made)):
            x_T = initial_noise.initial_noise([(voices, row, 1.0)], noise, ImageSpec.voice_strength, LAYOUT_STRENGTH)
            image = painter.paint([spec], torch.from_numpy(x_T[None]))[0]
            coarse = basis @ ((lab(image) - second) @ (first - second)) @ basis.T
            coarse[0, 0] = 0
            seen.append(coarse.ravel())
        cosines = cosines_of(np.stack(seen), shapes)
        six = [cosines[row, row // 6 * 6 :][:6].max() == cosines[row, row] for row in range(len(made))]
        others = cosines[~np.eye(len(made), dtype=bool)].mean()
        print(f"| {prompt} | {np.diag(cosines).mean():.2f} | {others:.2f} | {np.mean(six):.0%} |", flush=True)


def lab(image: np.ndarray) -> np.ndarray:
    """Convert uint8 [H, W, 3] to CIE Lab, float32."""
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def main() -> None:
    """Run the command line."""
    parser = cli.CommandParser(__doc__)
    for name in ("--digits", "--words"):
        parser.add_argument(name, type=cli.existing_folder, metavar="DIR", help="see above")
    parser.add_argument("--images", type=cli.bounded(int, 10), default=300, help="of words (default: 300)")
    parser.add_argument(
        "--takes", type=cli.bounded(int, 2, len(TAKES)), default=len(TAKES), help="of each digit (default: 9)"
    )
    parser.add_argument(
        "--steps",
        type=cli.bounded(int, 1, 100),
        default=config.BUILTIN_SAMPLING["steps"],
        help="of an image (default: %(default)s)",
    )
    parser.add_argument(
        "--sheets",
        type=cli.existing_folder,
        metavar="DIR",
        help="also save sheets there: again.png (rows: speakers; three takes of two digits), pitch.png (deep to high)",
    )
    options = parser.parse_args()
    if not (options.digits or options.words):
        parser.error("--digits DIR or --words DIR is needed")
    if options.digits:
        print_again(options.digits, options)
    if options.words:
        print_seen(options.words, options)
        print_shapes(options.words, options)


if __name__ == "__main__":
    cli.run(main)
