"""Measure whether a voice has its x_T again: said again, somewhere else, and for longer.

None of the recordings is in the built-in calibration.

    python -m benchmarks.again --digits fsdd/recordings --words ktuberling/usr --speech fillets-nl/usr

--digits: the recordings of the Free Spoken Digit Dataset (github.com/Jakobovski/free-spoken-digit-dataset), of which
nine takes of each speaker and digit are used. --words: the unpacked Debian package ktuberling-data. --speech:
fillets-ng-data-nl, the lines of two actors. Without an option, its table is left out.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import cli
import config
from audio.calibration import voice_latents
from audio.files import sha256_of
from audio.orthogonal_map import SQUARES
from audio.qualities import NAMES
from audio.whitening import WHITENING_NAME, Whitening
from benchmarks import sounds
from benchmarks.places import RATE, places
from benchmarks.voice import cosines_of, found_again, with_seed
from ldm.checkpoint import load_model
from ldm.modules.low_frequencies import leading_numbers

TAKES = range(0, 45, 5)
WORDS_PER_LANGUAGE = 18
TEXTS = 20  # of each speaker
LENGTHS = (1, 3, 10, 30)  # seconds
SAME, ALIKE = 0.8, 0.5  # cosines


def x_T_of(whitening: Whitening, recordings: Sequence[np.ndarray]) -> np.ndarray:
    """Compute what voices contribute to x_T, [N, 4, 32, 32]."""
    rows = []
    for sound in recordings:
        made = voice_latents(sound, config.BUILTIN_CALIBRATION_DIR, config.RECIPE, RATE)
        rows.append(whitening.whiten(made.latents, heard=[made.heard])[0])
    return np.stack(rows)


def named_numbers(x: np.ndarray) -> np.ndarray:
    """Read the named numbers out of x_T [N, C, h, w]: [N, Q]."""
    return leading_numbers(torch.from_numpy(x), SQUARES)[:, : len(NAMES)].numpy().astype(np.float64)


def draws(x: np.ndarray) -> np.ndarray:
    """Return which candidate of an open prompt the built-in model takes for each x_T, [N]."""
    prior = load_model(config.BUILTIN_MODEL_WEIGHTS).model.diffusion_model.layout
    assert prior is not None
    return prior.scores(torch.from_numpy(with_seed(x))).argmax(dim=1).numpy()


def in_use(chosen: np.ndarray) -> float:
    """Return 2 to the entropy of choices [N]: how many there are in effect."""
    shares = np.bincount(chosen) / len(chosen)
    return float(2 ** -(shares[shares > 0] * np.log2(shares[shares > 0])).sum())


def words_of(source: Path) -> tuple[list[Path], list[Path]]:
    """Choose words of many languages, and return them and the others, which are the talkers of a babble."""
    unique = {sha256_of(path): path for path in sorted(source.rglob("sounds/*/*.ogg"))}
    groups = itertools.groupby(sorted(unique.values()), lambda path: path.parent)
    spread = [[*paths] for _, paths in groups]
    used = {paths[i * len(paths) // WORDS_PER_LANGUAGE] for paths in spread for i in range(WORDS_PER_LANGUAGE)}
    return sorted(used), [path for paths in spread for path in paths if path not in used]


# --- tables ----------------------------------------------------------------------------------------------------------
def print_digits(whitening: Whitening, folder: Path) -> None:
    """Print how similar are two takes of one speaker and one digit, and two of two speakers and two digits."""
    paths = [path for path in sorted(folder.glob("*_*_*.wav")) if int(path.stem.split("_")[2]) in TAKES]
    said = np.array([path.stem.split("_")[:2] for path in paths])
    x = x_T_of(whitening, sounds.read(paths))
    named, chosen = named_numbers(x), draws(x)
    first, second = np.triu_indices(len(x), 1)
    equal = said[first] == said[second]
    print(f"\n| {len(x)} digits | one speaker and digit | two speakers and digits |\n| --- | --- | --- |")
    for name, cosines in (("x_T", cosines_of(x, x)), ("named numbers", cosines_of(named, named))):
        pairs = cosines[first, second]
        cells = [
            f"{np.median(some):.2f}; {np.mean(some > SAME):.1%}, {np.mean(some > ALIKE):.1%}"
            for some in (pairs[equal.all(axis=1)], pairs[~equal.any(axis=1)])
        ]
        print(f"| {name}: median cosine; above {SAME}, above {ALIKE} | {cells[0]} | {cells[1]} |")
    same = chosen[first] == chosen[second]
    print(f"| the same draw | {same[equal.all(axis=1)].mean():.0%} | {same[~equal.any(axis=1)].mean():.1%} |")


def print_words(whitening: Whitening, source: Path) -> None:
    """Print how often a changed word is found again among all."""
    paths, others = words_of(source)
    words, talkers = sounds.read(paths), sounds.read(others)
    known = x_T_of(whitening, words)
    cosines = np.abs(cosines_of(known, known)[np.triu_indices(len(known), 1)])
    common = (known.mean(axis=0) ** 2).mean() - 1 / len(known)
    print(f"\n{len(known)} words: median absolute cosine {np.median(cosines):.3f}, common to all {common:.1%} of the ")
    print(f"variance, {in_use(draws(known)):.0f} draws in use\n\n| changed | found (mean cosine) |\n| --- | --- |")
    rng = np.random.default_rng(1)
    for name, change in places(talkers).items():
        found, cosine, _ = found_again(known, x_T_of(whitening, [change(word, rng) for word in words]))
        print(f"| {name} | {found:.1%} ({cosine:.2f}) |", flush=True)


def print_speech(whitening: Whitening, source: Path) -> None:
    """Print how many draws are in use for texts of several lengths."""
    lines = sorted(source.rglob("sound/*/*/*.ogg"))
    speakers = [
        np.concatenate(sounds.read([path for path in lines if path.stem.split("-")[1:2] == [actor]])) for actor in "mv"
    ]
    print("\n| texts of | draws in use | median absolute cosine |\n| --- | --- | --- |")
    for seconds in LENGTHS:
        starts = [(voice, number * len(voice) // TEXTS) for voice in speakers for number in range(TEXTS)]
        x = x_T_of(whitening, [voice[start : start + seconds * RATE] for voice, start in starts])
        cosines = np.abs(cosines_of(x, x)[np.triu_indices(len(x), 1)])
        print(f"| {seconds} s | {in_use(draws(x)):.0f} of {len(x)} | {np.median(cosines):.3f} |", flush=True)


def build_parser() -> cli.CommandParser:
    """Build the parser of the command line."""
    parser = cli.CommandParser(__doc__)
    for name in ("--digits", "--words", "--speech"):
        parser.add_argument(name, type=cli.existing_folder, metavar="DIR", help="see above")
    return parser


def main() -> None:
    """Run the command line."""
    options = build_parser().parse_args()
    whitening = Whitening.load(config.BUILTIN_CALIBRATION_DIR / WHITENING_NAME)
    tables = ((print_digits, options.digits), (print_words, options.words), (print_speech, options.speech))
    for table, folder in tables:
        if folder:
            table(whitening, folder)


if __name__ == "__main__":
    cli.run(main)
