"""Statistics of many recordings, by which one recording becomes a z-score.

A calibration is a folder: `mean.npy` and `std.npy` (dB, float32 [4096]), `whitening.npz` (audio/whitening.py) and
`calibration.json`, which says how they were made: the recipe, the libraries, how many recordings, and the sha256 of
the other files, so that parts of two calibrations, or of two recipes, are never mixed unnoticed.
"""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from audio.features import RECIPE, Recipe
from audio.matrix import load_array
from audio.whitening import WHITENING_NAME, Whitening
from files import atomic_path, sha256_of

MEAN_NAME, STD_NAME, ABOUT_NAME = "mean.npy", "std.npy", "calibration.json"
BLOCK = 1024  # vectors held at a time: 32 MB as float64
FEWEST = 2  # recordings; of one there is no spread
FEW = 50  # recordings; below it the statistics are more of these recordings than of voices

# Where the calibration hardly varies, its std says nothing about the next recording, and z has no bound: of telephone
# prompts alone (8 kHz), a fifth of the elements have a std of 0.0 to 0.5 dB, and a recording from a good microphone
# can give z = 160 and more there. dB run from -80 to 0, so with this floor |z| never exceeds 32. Elements that voices
# decide are not touched: in the built-in calibration, it raises 2 of 4,096. In place of 0 it also divides.
STD_FLOOR_DB = 2.5

AGAIN = "run prep_audio_spectrograms.py and z_transformation_with_stats.py again"


@dataclass(frozen=True, eq=False)
class Calibration:
    mean_db: np.ndarray  # [P] float32
    std_db: np.ndarray  # [P] float32, nowhere below STD_FLOOR_DB if made here

    def z_score(self, vectors: np.ndarray) -> np.ndarray:
        """[N, P] or [P] dB -> float32 of the same shape."""
        return ((np.asarray(vectors, np.float64) - self.mean_db) / self.std_db).astype(np.float32)

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
            check_recipe(about["recipe"], recipe, about_path)
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
    floored: int  # elements whose std was raised to STD_FLOOR_DB
    own_axes: bool  # False: the principal axes are those of the prior
    axes: int
    z_mean: float
    z_std: float
    z_largest: float  # absolute
    z_kurtosis: float  # 3 for N(0, 1)
    z_neighbour: float  # correlation with the right neighbour in the picture; 0 for N(0, I)


def calibrate(
    vectors_path: Path, z_scores_path: Path, folder: Path, recipe: Recipe = RECIPE, prior: Whitening | None = None
) -> CalibrationReport:
    """Make a calibration in `folder` from vectors, and the z-scores of the same vectors. All files, or none, appear.

    Memory does not grow with the number of recordings. `prior` lends its principal axes where there are too few
    recordings for their own (`Whitening.fit`).

    Raises:
        ValueError: the vectors are broken, of another recipe, or fewer than two.
        OSError: a file cannot be read or written.
    """
    vectors = load_array(vectors_path, (None, recipe.vector_size))
    if len(vectors) < FEWEST:
        raise ValueError(f"{vectors_path} holds {len(vectors)} recordings; {FEWEST} at least, {FEW} or more are needed")
    source = _source_of(vectors_path, len(vectors), recipe)
    mean, std = mean_and_std(vectors)
    floored = int((std < STD_FLOOR_DB).sum())
    calibration = Calibration(mean.astype(np.float32), np.maximum(std, STD_FLOOR_DB).astype(np.float32))
    whitening = Whitening.fit(vectors, calibration.mean_db, calibration.std_db, prior=prior)
    whitening = replace(whitening, top_db=recipe.top_db)
    own_axes = prior is None or whitening.components is not prior.components
    with ExitStack() as stack:
        # renamed in the reverse order: calibration.json, which vouches for the others, comes last
        names = (ABOUT_NAME, WHITENING_NAME, STD_NAME, MEAN_NAME)
        about_path, whitening_path, std_path, mean_path = [stack.enter_context(atomic_path(folder / n)) for n in names]
        np.save(mean_path, calibration.mean_db)
        np.save(std_path, calibration.std_db)
        whitening.save(whitening_path)
        spread = _write_z_scores(stack.enter_context(atomic_path(z_scores_path)), vectors, calibration)
        about = source | {
            "recordings": len(vectors),
            "std_floor_db": STD_FLOOR_DB,
            "floored_elements": floored,
            "whitening": {"axes": len(whitening.scales), "own_axes": own_axes},
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "sha256": {n: sha256_of(p) for n, p in zip(names[1:], (whitening_path, std_path, mean_path), strict=True)},
        }
        about_path.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return CalibrationReport(len(vectors), source["seconds"], floored, own_axes, len(whitening.scales), *spread)


def mean_and_std(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def check_recipe(made_with: dict, recipe: Recipe, path: Path) -> None:
    """Raises ValueError naming the first parameter in which `made_with`, as read from `path`, differs from `recipe`."""
    for name, wanted in asdict(recipe).items():
        if made_with.get(name) != wanted:
            raise ValueError(
                f"{path} was made with {name} {made_with.get(name)}, the recipe now says {wanted}; {AGAIN}"
            )


def _blocks(vectors: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(vectors), BLOCK):
        yield np.asarray(vectors[start : start + BLOCK], dtype=np.float64)


def _write_z_scores(path: Path, vectors: np.ndarray, calibration: Calibration) -> tuple[float, ...]:
    """Write float32 [N, P], and return mean, std, largest, kurtosis and neighbour correlation of all elements."""
    z_scores = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=vectors.shape)
    size = int(vectors.shape[1] ** 0.5)
    moments, products, pairs, largest = np.zeros(4), 0.0, 0, 0.0
    for index, block in enumerate(_blocks(vectors)):
        z = calibration.z_score(block)
        z_scores[index * BLOCK : index * BLOCK + len(z)] = z
        z = z.astype(np.float64)
        moments += [(z**power).sum() for power in (1, 2, 3, 4)]
        pictures = z.reshape(-1, size, size)  # [B, mel band, column]
        products += (pictures[:, :, :-1] * pictures[:, :, 1:]).sum()
        pairs += pictures[:, :, 1:].size
        largest = max(largest, float(np.abs(z).max()))
    z_scores.flush()
    first, second, third, fourth = (moments / vectors.size).tolist()
    variance = second - first**2
    central = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
    # max(): recordings that are all the same have z = 0 everywhere
    kurtosis, neighbour = central / max(variance**2, 1e-12), (products / pairs - first**2) / max(variance, 1e-12)
    return first, max(variance, 0.0) ** 0.5, largest, kurtosis, neighbour


def _source_of(vectors_path: Path, rows: int, recipe: Recipe) -> dict:
    """What prep_audio_spectrograms.py noted beside the vectors; where it did not, the recipe is taken on trust."""
    about_path, table_path = vectors_path.with_suffix(".json"), vectors_path.with_suffix(".csv")
    if not about_path.is_file():
        return {"recipe": asdict(recipe), "libraries": {}, "seconds": None, "recordings_sha256": None}
    about = _read_about(about_path)
    check_recipe(about["recipe"], recipe, about_path)
    if about.get("recordings") != rows:
        raise ValueError(
            f"{about_path} tells of {about.get('recordings')} recordings, {vectors_path} has {rows}; {AGAIN}"
        )
    about["recordings_sha256"] = sha256_of(table_path) if table_path.is_file() else None
    return {"recipe": {}, "libraries": {}, "seconds": None} | about


def _read_about(path: Path) -> dict:
    """A .json file with a recipe in it.

    Raises:
        ValueError: it is something else.
    """
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); {AGAIN}") from error
    if not isinstance(about, dict) or not isinstance(about.get("recipe"), dict):
        raise ValueError(f"{path} does not say which recipe was used; {AGAIN}")
    return about
