"""Compare ways to whiten voices: python -m benchmarks.whitening_choices SOURCE

Uses recordings that are neither in the built-in calibration nor in benchmarks/voice.py, so that the choice and its
evaluation use different recordings. Each row is one whitening, fitted to the calibration's recordings: the median
absolute cosine between different recordings; the share of changed recordings that are found again among all, as the
mean over the changes of benchmarks/sounds.py and for the worst of them; and their mean cosine. Then the same for few
recordings; with --rows only the memory that a fit takes. SOURCE as for benchmarks/voice.py. Takes five minutes on one
core.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import eigh
from scipy.special import ndtri
from tqdm import tqdm

import cli
from audio.calibration import STD_FLOOR_DB
from audio.features import log_mel_vector
from audio.whitening import AXES, Whitening, own_share
from benchmarks import sounds
from benchmarks.memory import PeakMemory
from benchmarks.sounds import RECIPE

Code = Callable[[np.ndarray], np.ndarray]  # spectrograms [N, P] -> codes [N, K]
FEW = (10, 50, 200, 800)  # recordings of a calibration of one's own
MEAN, STD = np.zeros(RECIPE.vector_size, np.float32), np.ones(RECIPE.vector_size, np.float32)
CLEAN = "clean"
HALVES = {"telephone": slice(0, sounds.PER_HALF), "wide-band": slice(sounds.PER_HALF, 2 * sounds.PER_HALF)}


def vectors(recordings: list[np.ndarray], name: str) -> np.ndarray:
    """Compute the spectrograms [N, P] in dB of recordings."""
    return np.stack([log_mel_vector(sound, RECIPE) for sound in tqdm(recordings, name, disable=None)])


def for_choosing(source: Path) -> dict[str, np.ndarray]:
    """Compute spectrograms of recordings that nothing else uses: unchanged, and after each change."""
    used = set(sounds.held_out_paths(source))
    left = [path for path in sounds.held_out_paths(source, 10**6) if path not in used]
    halves = [
        [path for path in left if (sounds.calibration_set.TELEPHONE in str(path)) == telephone]
        for telephone in (True, False)
    ]
    recordings = sounds.read([path for half in halves for path in sounds.calibration_set.spaced(half, sounds.PER_HALF)])
    assert len(recordings) == 2 * sounds.PER_HALF, "HALVES counts on all of them"
    rng = np.random.default_rng(2)
    changed = {CLEAN: vectors(recordings, CLEAN)}
    for name, change in sounds.changes(recordings).items():
        changed[name] = vectors([change(sound, rng) for sound in recordings], name)
    return changed


def evaluate(code: Code, known: dict[str, np.ndarray]) -> str:
    """Return the cells of a row: median absolute cosine, mean and worst share found again, mean cosine."""

    def unit(decibels: np.ndarray) -> np.ndarray:
        codes = code(decibels.astype(np.float64))
        return codes / np.linalg.norm(codes, axis=1, keepdims=True)

    clean = unit(known[CLEAN])
    between = np.median(np.abs((clean @ clean.T)[np.triu_indices(len(clean), 1)]))
    cosines = [unit(changed) @ clean.T for name, changed in known.items() if name != CLEAN]
    found = [(each.argmax(axis=1) == np.arange(len(each))).mean() for each in cosines]
    own = np.mean([each.diagonal().mean() for each in cosines])
    return f"{between:.3f} | {np.mean(found):.1%} | {min(found):.1%} | {own:.3f} |"


def rank_gaussian(x: np.ndarray) -> np.ndarray:
    """Replace the elements of each row by the normal quantiles of their ranks."""
    ranks = x.argsort(axis=1, kind="stable").argsort(axis=1)
    return ndtri((ranks + 0.5) / x.shape[1])


def tapered(whitening: Whitening, power: float = 0.5) -> Code:
    """Make the code that scales coefficients by their standard deviation to the power of `power` − 1.

    0 is full whitening, 1 is none, and 0.5 is what `Whitening` does.
    """
    axes = whitening.components.astype(np.float64).T * whitening.scales.astype(np.float64) ** (power - 1)
    return lambda aligned: (aligned - whitening.centre_db) @ axes


def align_all(whitening: Whitening, known: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Align all spectrograms."""
    return {name: whitening.align(decibels.astype(np.float64)) for name, decibels in known.items()}


def first(whitening: Whitening, axes: int) -> Whitening:
    """Keep the first axes alone."""
    return replace(whitening, components=whitening.components[:axes], scales=whitening.scales[:axes])


def with_choices(recordings: np.ndarray, **choices: Any) -> Whitening:
    """Fit a whitening of AXES axes with another floor or other edges than the defaults."""
    one_axis = np.ones((1, MEAN.size), np.float16), np.ones(1, np.float32)
    blank = Whitening(MEAN, STD, MEAN, *one_axis, **choices)
    aligned = blank.align(recordings.astype(np.float64))
    centre = aligned.mean(axis=0)
    products = (aligned - centre) @ (aligned - centre).T  # [N, N], smaller than [P, P]
    variances, weights = eigh(products, subset_by_index=(len(products) - AXES, len(products) - 1))
    components = (weights.T @ (aligned - centre)) / np.sqrt(variances)[:, None]
    scales = np.sqrt(variances / len(aligned)).astype(np.float32)
    return replace(blank, centre_db=centre, components=components.astype(np.float16), scales=scales)


def print_choices(calibration: np.ndarray, known: dict[str, np.ndarray]) -> None:
    """Print whitenings of other kinds beside the chosen one."""
    print("\n| | between | found, mean | worst | cosine |\n| --- | --- | --- | --- | --- |")
    mean, std = calibration.mean(axis=0), np.maximum(calibration.std(axis=0), STD_FLOOR_DB)
    best = Whitening.fit(calibration, MEAN, STD, 2 * AXES)
    aligned = align_all(best, known)

    def row(name: str, code: Code, spectrograms: dict[str, np.ndarray]) -> None:
        print(f"| {name} | {evaluate(code, spectrograms)}", flush=True)

    row("raw z-score", lambda decibels: (decibels - mean) / std, known)
    row("raw z-score, rank-Gaussianised", lambda decibels: rank_gaussian((decibels - mean) / std), known)
    row(f"**as chosen**: {AXES} axes, taper 0.5", tapered(first(best, AXES)), aligned)
    row("the same, its codes rank-Gaussianised", lambda x: rank_gaussian(tapered(first(best, AXES))(x)), aligned)
    for axes in (AXES // 2, AXES, 2 * AXES):
        for power in (0.0, 0.25, 0.5, 1.0):
            row(f"{axes} axes, taper {power:g}", tapered(first(best, axes), power), aligned)
    for choice in [{"floor_db": floor} for floor in (15.0, 25.0, 30.0)] + [
        {"edge_share": x} for x in (0.0, 0.01, 0.06)
    ]:
        whitening = with_choices(calibration, **choice)
        row("{} {:g}".format(*next(iter(choice.items()))), tapered(whitening), align_all(whitening, known))


def print_few(halves: dict[str, np.ndarray], known: dict[str, np.ndarray]) -> None:
    """Print whitenings fitted to few recordings of one half, with those of the other half as the prior."""
    print("\n| own recordings | fitted to | between | found, mean | worst | cosine |")
    print("| --- | --- | --- | --- | --- | --- |")
    for half, other in (("telephone", "wide-band"), ("wide-band", "telephone")):
        prior = Whitening.fit(halves[other], MEAN, STD)
        tested = align_all(prior, {name: decibels[HALVES[half]] for name, decibels in known.items()})
        order = np.random.default_rng(0).permutation(len(halves[half]))
        print(f"| 0 {half} | {other} alone | {evaluate(tapered(prior), tested)}", flush=True)
        for count in FEW:
            own = halves[half][order[:count]]
            share = f"{own_share(count):.0%} own, the rest {other}"
            for name, other_prior in (("own alone", None), (share, prior)):
                whitening = Whitening.fit(own, MEAN, STD, prior=other_prior)
                print(f"| {count} {half} | {name} | {evaluate(tapered(whitening), tested)}", flush=True)


def print_memory(rows: int) -> None:
    """Print the memory of a fit to a mapped file of random rows."""
    with tempfile.TemporaryDirectory() as folder:
        path, rng = Path(folder, "vectors.npy"), np.random.default_rng(3)
        shape = (rows, RECIPE.vector_size)
        matrix = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        for start in range(0, rows, 1024):
            block = matrix[start : start + 1024]
            steps = rng.normal(0, 2, (len(block), RECIPE.spectrogram_size, RECIPE.spectrogram_size))
            block[:] = steps.cumsum(axis=1).cumsum(axis=2).reshape(block.shape).clip(-80, 0)
        del matrix, block
        peak, started = PeakMemory(), time.perf_counter()
        Whitening.fit(np.load(path, mmap_mode="r"), MEAN, STD)
        took, seconds = peak.stop() / 2**20, time.perf_counter() - started
        print(f"\n{rows} rows, {path.stat().st_size / 2**30:.2f} GiB: {took:.0f} MiB of memory, {seconds:.0f} s")


def main() -> None:
    """Run the command line."""
    parser = cli.CommandParser(__doc__)
    add = parser.add_argument
    add("source", type=cli.existing_folder, metavar="SOURCE", help="folder of the unpacked packages")
    add("--rows", type=cli.bounded(int, 2), nargs="+", metavar="N", help="only fit to files of so many rows")
    options = parser.parse_args()
    if options.rows:
        for rows in options.rows:
            print_memory(rows)
        return
    source = options.source.resolve()
    known = for_choosing(source)
    paths = sounds.calibration_set.select(source)
    halves = {
        name: vectors(
            sounds.read([path for path in paths if (sounds.calibration_set.TELEPHONE in str(path)) == telephone]), name
        )
        for name, telephone in (("telephone", True), ("wide-band", False))
    }
    print_choices(np.concatenate([*halves.values()]), known)
    print_few(halves, known)


if __name__ == "__main__":
    cli.run(main)
