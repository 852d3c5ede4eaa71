"""Statistics of many recordings, by which one recording becomes a z-score.

A calibration is a folder: `mean.npy` and `std.npy` (dB, float32 [4096]), `whitening.npz` (audio/whitening.py) and
`calibration.json`, which says how they were made: the recipe, the libraries, how many recordings, and the sha256 of
the other files, so that parts of two calibrations, or of two recipes, are never mixed unnoticed.
"""

import csv
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from . import provenance
from .features import CONSTANTS, RECIPE, Recipe, mel_edges
from .files import atomic_path, sha256_of
from .npy import BLOCK, NpyReader, NpyWriter, load_array, save_array
from .whitening import WHITENING_NAME, Whitening, own_share

MEAN_NAME, STD_NAME, ABOUT_NAME = "mean.npy", "std.npy", "calibration.json"
FEWEST = 2  # recordings; of one there is no spread
FEW = 50  # recordings; below it the statistics are more of these recordings than of voices

# Where the calibration hardly varies, its std says nothing about the next recording, and z has no bound: of telephone
# prompts alone (8 kHz), a fifth of the elements have a std of 0.0 to 0.5 dB, and a recording from a good microphone
# can give z = 160 and more there. dB run from -80 to 0, so with this floor |z| never exceeds 32. Elements that voices
# decide are not touched: in the built-in calibration, it raises 2 of 4,096. In place of 0 it also divides.
STD_FLOOR_DB = 2.5

# A recording with sound above the band of the calibration has a share of elements there with a z-score above UNHEARD_Z.
# With a calibration of telephone speech: telephone speech 0.00, wide-band syllables 0.04 to 1.00, 19 of 20 over 0.1.
UNHEARD_Z, UNHEARD_SHARE = 3.0, 0.1

AGAIN = "run prep_audio_spectrograms.py and z_transformation_with_stats.py again"


@dataclass(frozen=True, eq=False)
class Calibration:
    mean_db: np.ndarray  # [P] float32
    std_db: np.ndarray  # [P] float32, nowhere below STD_FLOOR_DB if made here

    def z_score(self, vectors: np.ndarray) -> np.ndarray:
        """[N, P] or [P] dB -> float32 of the same shape."""
        return ((np.asarray(vectors, np.float64) - self.mean_db) / self.std_db).astype(np.float32)

    def band_hz(self, recipe: Recipe = RECIPE) -> float | None:
        """Hz above which the calibration recordings hold nothing, or None if they reach to the top."""
        bands = _bands_heard(self.std_db > STD_FLOOR_DB, recipe)
        return None if bands == recipe.n_mels else float(mel_edges(recipe)[bands])

    def reaches_beyond(self, vector: np.ndarray, recipe: Recipe = RECIPE) -> bool:
        """Whether a recording, [P] dB, has sound above the band of the calibration."""
        bands = _bands_heard(self.std_db > STD_FLOOR_DB, recipe)
        above = self.z_score(vector).reshape(recipe.picture_size, -1)[bands * recipe.picture_size // recipe.n_mels :]
        return above.size > 0 and float((above > UNHEARD_Z).mean()) > UNHEARD_SHARE

    @classmethod
    def load(cls, folder: Path, recipe: Recipe = RECIPE) -> "Calibration":
        """Read mean.npy and std.npy, and check that they were made with `recipe`, as far as calibration.json tells.

        A folder without calibration.json is accepted: its statistics come from elsewhere.

        Raises:
            ValueError: a file is broken, not the one that calibration.json describes, or of another recipe.
            OSError: a file is not there, or may not be read.
        """
        about_path = folder / ABOUT_NAME
        if about_path.is_file():
            about = _read_about(about_path)
            check_recipe(about, recipe, about_path)
            for name, digest in about.get("sha256", {}).items():
                if name in (MEAN_NAME, STD_NAME) and sha256_of(folder / name) != digest:
                    raise ValueError(f"{folder / name} is not the file that {ABOUT_NAME} beside it describes; {AGAIN}")
        mean = load_array(folder / MEAN_NAME, (recipe.vector_size,))
        std = load_array(folder / STD_NAME, (recipe.vector_size,))
        if not (std > 0).all():
            raise ValueError(f"{folder / STD_NAME} holds values that are not above 0; {AGAIN}")
        return cls(np.array(mean, np.float32), np.array(std, np.float32))


@dataclass(frozen=True)
class CalibrationReport:
    """What making a calibration found out."""

    recordings: int
    seconds: float | None  # of sound; None where the vectors came without their .json
    sample_rates: dict[int, int]  # how many recordings of each, in Hz; empty where the vectors came without their .csv
    band_hz: float | None  # above it the recordings hold nothing; None if they reach to the top
    floored: int  # elements whose std was raised to STD_FLOOR_DB
    own_share: float  # of the whitening; the rest is the prior's
    axes: int
    z_mean: float
    z_std: float
    z_largest: float  # absolute
    z_kurtosis: float  # 3 for N(0, 1)
    z_neighbour: float  # correlation with the right neighbour in the picture; 0 for N(0, I)


def calibrate(
    vectors_path: Path, z_scores_path: Path, folder: Path, recipe: Recipe = RECIPE, prior: Whitening | None = None
) -> tuple[Calibration, CalibrationReport]:
    """Make a calibration in `folder` from vectors, and the z-scores of the same vectors. All files, or none, appear.

    Memory does not grow with the number of recordings. The whitening is mixed with `prior` where there are too few
    recordings for one of their own (`Whitening.fit`).

    Raises:
        ValueError: the vectors are broken, of another recipe, or fewer than two.
        OSError: a file cannot be read or written.
    """
    vectors = _vectors(vectors_path, recipe)
    source = _source_of(vectors_path, len(vectors), recipe)
    mean, std = mean_and_std(vectors)
    floored = int((std < STD_FLOOR_DB).sum())
    calibration = Calibration(mean.astype(np.float32), np.maximum(std, STD_FLOOR_DB).astype(np.float32))
    whitening = Whitening.fit(vectors, calibration.mean_db, calibration.std_db, prior=prior)
    whitening = replace(whitening, top_db=recipe.top_db)
    share = 1.0 if prior is None else own_share(len(vectors))
    with ExitStack() as stack:
        # renamed in the reverse order: calibration.json, which vouches for the others, comes last
        names = (ABOUT_NAME, WHITENING_NAME, STD_NAME, MEAN_NAME)
        about_path, whitening_path, std_path, mean_path = [stack.enter_context(atomic_path(folder / n)) for n in names]
        save_array(mean_path, calibration.mean_db)
        save_array(std_path, calibration.std_db)
        whitening.save(whitening_path)
        z_about_path = stack.enter_context(atomic_path(z_scores_path.with_suffix(".json")))
        spread = _write_z_scores(stack.enter_context(atomic_path(z_scores_path)), vectors, calibration)
        statistics = provenance.statistics_sha256(calibration.mean_db, calibration.std_db)
        made_with = {"recipe": source["recipe"], "constants": source["constants"], provenance.STATISTICS: statistics}
        z_about_path.write_text(json.dumps(made_with | {"rows": len(vectors)}, indent=2) + "\n", encoding="utf-8")
        about = source | {
            "recordings": len(vectors),
            "std_floor_db": STD_FLOOR_DB,
            "floored_elements": floored,
            "band_hz": calibration.band_hz(recipe),
            "whitening": {"axes": len(whitening.scales), "own_share": round(share, 3)},
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "sha256": {n: sha256_of(p) for n, p in zip(names[1:], (whitening_path, std_path, mean_path), strict=True)},
        }
        about_path.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    rates, band = _sample_rates(vectors_path.with_suffix(".csv")), calibration.band_hz(recipe)
    report = CalibrationReport(
        len(vectors), source["seconds"], rates, band, floored, share, len(whitening.scales), *spread
    )
    return calibration, report


def _vectors(path: Path, recipe: Recipe) -> NpyReader:
    """Raises ValueError if `path` does not hold enough vectors, or none at all."""
    vectors = NpyReader(path, recipe.vector_size)
    if len(vectors) < FEWEST:
        raise ValueError(f"{path} holds 1 recording; at least {FEWEST} are needed, and {FEW} or more are recommended")
    if not looks_like_vectors(vectors[:BLOCK], recipe):
        raise ValueError(
            f"{path} holds numbers that are not dB from -{recipe.top_db:g} to 0; z-scores, perhaps? "
            "Name the file that prep_audio_spectrograms.py wrote"
        )
    return vectors


def mean_and_std(vectors: "NpyReader | np.ndarray") -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation (ddof 0) of each column of [N, P], float64, block by block.

    Blocks are merged as in Chan, Golub, LeVeque, 1979, which loses no digits where a mean is large and a std small.
    """
    count, mean, squares = 0, np.zeros(vectors.shape[1]), np.zeros(vectors.shape[1])
    for block in _blocks(vectors):
        block_mean = block.mean(axis=0)
        shift, both = block_mean - mean, count + len(block)
        squares += ((block - block_mean) ** 2).sum(axis=0) + shift**2 * (count * len(block) / both)
        mean += shift * (len(block) / both)
        count = both
    return mean, np.sqrt(squares / count)


def looks_like_vectors(block: np.ndarray, recipe: Recipe = RECIPE) -> bool:
    """Whether the rows [B, P] are pictures in dB, rather than z-scores, which lie around 0."""
    return block.min() >= -recipe.top_db - 0.01 and block.max() <= 0.01 and block.mean() < -1


def check_recipe(about: dict, recipe: Recipe, path: Path) -> None:
    """Raises ValueError naming the first parameter in which `about`, as read from `path`, differs from `recipe`."""
    constants = {name: about["constants"].get(name) for name in CONSTANTS} if "constants" in about else CONSTANTS
    made_with = about["recipe"] | constants
    for name, wanted in (asdict(recipe) | CONSTANTS).items():
        if made_with.get(name) != wanted:
            raise ValueError(
                f"{path} was made with {name} {made_with.get(name)}, the recipe now says {wanted}; {AGAIN}"
            )


def check_z_scores(path: Path, block: np.ndarray, recipe: Recipe = RECIPE) -> None:
    """Raises ValueError if z-scores, of which `block` [B, P] are the first, are of another recipe, or none at all."""
    about_path = path.with_suffix(".json")
    if about_path.is_file():
        check_recipe(_read_about(about_path), recipe, about_path)
    if looks_like_vectors(block, recipe):
        raise ValueError(
            f"{path} holds dB from {block.min():.0f} to {block.max():.0f}, vectors, not z-scores: name the file that "
            "z_transformation_with_stats.py wrote"
        )


def _bands_heard(varies: np.ndarray, recipe: Recipe) -> int:
    """How many mel bands there are up to the highest in which elements vary ([P] booleans).

    Half as many have to as in the band where most do: a few short recordings, silent at both ends, vary in the middle.
    """
    shares = varies.reshape(recipe.picture_size, -1).mean(axis=1)
    heard = np.flatnonzero((shares > 0) & (shares >= shares.max() / 2))
    return int((heard[-1] + 1) * recipe.n_mels // recipe.picture_size) if heard.size else 0


def _sample_rates(table: Path) -> dict[int, int]:
    """How many of the recordings that prep_audio_spectrograms.py lists have each sample rate, most frequent first."""
    try:
        with open(table, newline="", encoding="utf-8", errors="surrogateescape") as stream:
            return dict(Counter(int(row["sample_rate"]) for row in csv.DictReader(stream)).most_common())
    except (OSError, ValueError, KeyError, TypeError, csv.Error):  # not there, or somebody's own
        return {}


def _blocks(vectors: "NpyReader | np.ndarray") -> Iterator[np.ndarray]:
    for start in range(0, len(vectors), BLOCK):
        yield np.asarray(vectors[start : start + BLOCK], dtype=np.float64)


def _write_z_scores(path: Path, vectors: NpyReader, calibration: Calibration) -> tuple[float, ...]:
    """Write float32 [N, P], and return mean, std, largest, kurtosis and neighbour correlation of all elements."""
    rows, width = vectors.shape
    size = int(width**0.5)
    moments, products, pairs, largest = np.zeros(4), 0.0, 0, 0.0
    with NpyWriter(path, width) as z_scores:
        for block in _blocks(vectors):
            z = calibration.z_score(block)
            z_scores.append(z)
            z = z.astype(np.float64)
            moments += [(z**power).sum() for power in (1, 2, 3, 4)]
            pictures = z.reshape(-1, size, size)  # [B, mel band, column]
            products += (pictures[:, :, :-1] * pictures[:, :, 1:]).sum()
            pairs += pictures[:, :, 1:].size
            largest = max(largest, float(np.abs(z).max()))
    first, second, third, fourth = (moments / (rows * width)).tolist()
    variance = second - first**2
    central = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
    # max(): recordings that are all the same have z = 0 everywhere
    kurtosis, neighbour = central / max(variance**2, 1e-12), (products / pairs - first**2) / max(variance, 1e-12)
    return first, max(variance, 0.0) ** 0.5, largest, kurtosis, neighbour


def _source_of(vectors_path: Path, rows: int, recipe: Recipe) -> dict:
    """What prep_audio_spectrograms.py noted beside the vectors; where it did not, the recipe is taken on trust."""
    about_path, table_path = vectors_path.with_suffix(".json"), vectors_path.with_suffix(".csv")
    unknown = {"recipe": asdict(recipe), "constants": CONSTANTS, "libraries": {}, "seconds": None}
    if not about_path.is_file():
        return unknown | {"recordings_sha256": None}
    about = _read_about(about_path)
    check_recipe(about, recipe, about_path)
    if about.get("recordings") != rows:
        raise ValueError(
            f"{about_path} tells of {about.get('recordings')} recordings, {vectors_path} has {rows}; {AGAIN}"
        )
    for name, digest in about.get("sha256", {}).items():
        if sha256_of(vectors_path.with_name(name)) != digest:
            raise ValueError(f"{vectors_path.with_name(name)} is not the file that {about_path} describes; {AGAIN}")
    return {name: about.get(name, other) for name, other in unknown.items()} | {
        "recordings_sha256": sha256_of(table_path) if table_path.is_file() else None
    }


def _read_about(path: Path) -> dict:
    """A .json file with a recipe in it.

    Raises:
        ValueError: it is something else.
    """
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); {AGAIN}") from error
    parts = (about.get(part, {}) for part in ("constants", "sha256")) if isinstance(about, dict) else ()
    if (
        not isinstance(about, dict)
        or not isinstance(about.get("recipe"), dict)
        or not all(isinstance(part, dict) for part in parts)
    ):
        raise ValueError(f"{path} does not say which recipe was used; {AGAIN}")
    return about
