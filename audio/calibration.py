"""Statistics of many recordings, and how they turn one recording into latents.

A calibration is a folder: `mean.npy` and `std.npy` (dB, float32 [4096]), `whitening.npz` (audio/whitening.py) and
`calibration.json`, which says how they were made: the recipe, the libraries, how many recordings, and the sha256 of
the other files. Latents are z-scores: each element of a vector minus its mean, divided by its standard deviation.
"""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import provenance
from .features import Features, extract
from .files import atomic_path, sha256_of
from .manifest import AGAIN, check_files, check_recipe, read_manifest, write_manifest
from .mel import mel_edges
from .npy import BLOCK, ChosenRows, NpyReader, NpyWriter, Rows, load_array, save_array
from .qualities import Heard
from .recipe import CONSTANTS, MEAN_NAME, RECIPE, STD_NAME, Recipe
from .row_tables import (
    count_sample_rates,
    file_names,
    heard_in,
    refuse_foreign_table,
    seconds_of,
    undamaged_rows,
    write_rows,
)
from .sound import naming
from .whitening import BAR_SECONDS, WHITENING_NAME, Whitening, own_share

MANIFEST_NAME = "calibration.json"
LATENT_CHANNELS = 4
FEWEST = 2  # recordings; a single one has no standard deviation
FEW = 50  # recordings; fewer describe themselves rather than voices in general

# Where the calibration hardly varies, its std says nothing about the next recording, and z has no bound: with telephone
# prompts alone (8 kHz), a fifth of the elements have a std of 0.0 to 0.5 dB, and a recording from a good microphone
# can give z = 160 and more there. dB run from -80 to 0, so with this floor |z| never exceeds 32. Elements that depend
# on the voice are not touched: in the built-in calibration, the floor raises 2 of 4,096. It also avoids dividing by 0.
STD_FLOOR_DB = 2.5

# If a recording has sound above the band of the calibration, a share of the elements there has a z-score above
# UNHEARD_Z. With a calibration of telephone speech, this share is 0.00 for telephone speech, and 0.04 to 1.00 for
# wide-band syllables, over 0.1 for 19 of 20.
UNHEARD_Z, UNHEARD_SHARE = 3.0, 0.1


@dataclass(frozen=True, eq=False)
class Calibration:
    """Mean and standard deviation of the vectors of many recordings. P = elements of a vector (4096)."""

    mean_db: np.ndarray  # [P] float32
    std_db: np.ndarray  # [P] float32, nowhere below STD_FLOOR_DB if made here

    def z_score(self, vectors: np.ndarray) -> np.ndarray:
        """Turn vectors [N, P] or [P], in dB, into z-scores, float32 of the same shape."""
        return ((np.asarray(vectors, np.float64) - self.mean_db) / self.std_db).astype(np.float32)

    def band_hz(self, recipe: Recipe = RECIPE) -> float | None:
        """Return the frequency above which the calibration recordings hold nothing; None if they reach to the top."""
        bands = _bands_used(self.std_db > STD_FLOOR_DB, recipe)
        return None if bands == recipe.n_mels else float(mel_edges(recipe)[bands])

    def reaches_beyond(self, vector: np.ndarray, recipe: Recipe = RECIPE) -> bool:
        """Tell whether a recording, [P] dB, has sound above the band of the calibration."""
        bands = _bands_used(self.std_db > STD_FLOOR_DB, recipe)
        above = self.z_score(vector).reshape(recipe.spectrogram_size, -1)[
            bands * recipe.spectrogram_size // recipe.n_mels :
        ]
        return above.size > 0 and float((above > UNHEARD_Z).mean()) > UNHEARD_SHARE

    @classmethod
    def load(cls, folder: Path, recipe: Recipe = RECIPE) -> "Calibration":
        """Read mean.npy and std.npy, and check by calibration.json that they were made with `recipe`.

        A folder without calibration.json is accepted: its statistics come from elsewhere.

        Raises:
            ValueError: a file is broken, not the one that calibration.json describes, or of another recipe.
            OSError: a file does not exist or cannot be read.
        """
        manifest_path = folder / MANIFEST_NAME
        if manifest_path.is_file():
            manifest = read_manifest(manifest_path)
            check_recipe(manifest, recipe, manifest_path)
            check_files(manifest, manifest_path, (MEAN_NAME, STD_NAME))
        mean = load_array(folder / MEAN_NAME, (recipe.vector_size,))
        std = load_array(folder / STD_NAME, (recipe.vector_size,))
        if not (std > 0).all():
            raise ValueError(f"{folder / STD_NAME} holds values that are not above 0; {AGAIN}")
        return cls(np.array(mean, np.float32), np.array(std, np.float32))


# --- one voice -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class VoiceLatents:
    """One recording as latents, and what is known of it and of the calibration that made them."""

    latents: np.ndarray  # [1, 4, 32, 32] float32: plain z-scores
    info: Features
    statistics: str  # sha256 of mean and std, as `provenance.save_latents` notes it
    heard: Heard  # what the latents do not hold of the recording
    beyond_hz: float | None  # the recording has sound above this, and the calibration has none; None: it does not


def voice_latents(
    source: Path | str | np.ndarray,
    folder: Path,
    recipe: Recipe = RECIPE,
    sample_rate: int | None = None,
    channel: int | None = None,
    trim: bool = True,
) -> VoiceLatents:
    """Turn a recording into latents by the calibration in `folder`.

    Args:
        source: a sound file, or samples [T] or [T, channels]; see `features.extract`.
        folder: a calibration, with mean.npy and std.npy.
        recipe: how vectors are made; that of the calibration.
        sample_rate: of samples, in Hz; None for a file.
        channel: the one to use, from 1; None: as `features.extract` chooses.
        trim: whether silence at both ends is left out.

    Raises:
        ValueError: the recording cannot be used (`sound.AudioError`, which names the file), or the calibration is
            broken or of another recipe.
        OSError: a file does not exist or cannot be read.
    """
    calibration = Calibration.load(folder, recipe)
    with naming(source) if isinstance(source, str | Path) else nullcontext():
        features = extract(source, recipe, sample_rate, channel, trim)
    return VoiceLatents(
        latents=to_latents(calibration.z_score(features.vector)[None]),
        info=features,
        statistics=provenance.statistics_sha256(calibration.mean_db, calibration.std_db),
        heard=features.heard,
        beyond_hz=calibration.band_hz(recipe) if calibration.reaches_beyond(features.vector, recipe) else None,
    )


def to_latents(z_scores: np.ndarray) -> np.ndarray:
    """Reshape z-scores [N, P] row by row to latents [N, 4, sqrt(P) / 2, sqrt(P) / 2]."""
    side = math.isqrt(z_scores.shape[1] // LATENT_CHANNELS)
    return z_scores.reshape(len(z_scores), LATENT_CHANNELS, side, side)


# --- many recordings -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class CalibrationReport:
    """Facts about a new calibration."""

    recordings: int
    left_out: int  # because too much of them is missing
    seconds: float | None  # of sound; None where the vectors came without their .json
    sample_rates: dict[int, int]  # how many recordings of each, in Hz; empty where the vectors came without their .csv
    band_hz: float | None  # above it the recordings hold nothing; None if they reach to the top
    floored: int  # elements whose std was raised to STD_FLOOR_DB
    own_share: float  # weight of these recordings in the whitening; the rest is the weight of the prior
    axes: int
    z_mean: float
    z_std: float
    z_largest: float  # absolute
    z_kurtosis: float  # 3 for N(0, 1)
    z_neighbour: float  # correlation with the right neighbour in the spectrogram; 0 for N(0, I)


def calibrate(
    vectors_path: Path,
    z_scores_path: Path,
    folder: Path,
    recipe: Recipe = RECIPE,
    prior: Whitening | None = None,
    most_missing: float | None = None,
) -> tuple[Calibration, CalibrationReport]:
    """Make a calibration in `folder` from vectors, and the z-scores of the same vectors. All files appear, or none.

    Memory does not grow with the number of recordings. If there are too few for a whitening of their own, it is mixed
    with `prior` (`Whitening.fit`). Beside the z-scores a table names the recording of each row, if there is one beside
    the vectors.

    Args:
        most_missing: share, 0 to 1; damaged recordings of which more is missing, or nobody knows how much, are left
            out; None: none are.

    Raises:
        ValueError: the vectors are broken, of another recipe, or fewer than two; or `most_missing` is given, and no
            table says what is damaged.
        OSError: a file cannot be read or written.
    """
    refuse_foreign_table(z_scores_path.with_suffix(".csv"))
    read = _read_vectors(vectors_path, recipe)
    source, table = _source_of(vectors_path, len(read), recipe), vectors_path.with_suffix(".csv")
    vectors, chosen = _choose(read, vectors_path, most_missing)
    if chosen is not None:
        source |= {"seconds": seconds_of(table, chosen), "most_missing": most_missing}
    mean, std = mean_and_std(vectors)
    floored = int((std < STD_FLOOR_DB).sum())
    calibration = Calibration(mean.astype(np.float32), np.maximum(std, STD_FLOOR_DB).astype(np.float32))
    known = heard_in(table, len(read))
    heard = known if chosen is None or not known else [known[row] for row in chosen]
    whitening = Whitening.fit(vectors, calibration.mean_db, calibration.std_db, prior=prior, heard=heard)
    whitening = replace(whitening, top_db=recipe.top_db)
    share = 1.0 if prior is None else own_share(len(vectors))
    with ExitStack() as stack:
        # renamed in the reverse order: calibration.json, which vouches for the others, comes last
        manifest_path = stack.enter_context(atomic_path(folder / MANIFEST_NAME))
        digests = _save_statistics(stack, folder, calibration, whitening)
        made_with = {name: source[name] for name in ("recipe", "constants")}
        made_with[provenance.STATISTICS] = provenance.statistics_sha256(calibration.mean_db, calibration.std_db)
        spread = _save_z_scores(stack, z_scores_path, vectors, calibration, made_with, table, chosen)
        manifest = source | {
            "recordings": len(vectors),
            "std_floor_db": STD_FLOOR_DB,
            "floored_elements": floored,
            "band_hz": calibration.band_hz(recipe),
            "whitening": {"axes": len(whitening.scales), "own_share": round(share, 3)},
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "sha256": digests,
        }
        write_manifest(manifest_path, manifest)
    rates, left_out = count_sample_rates(z_scores_path.with_suffix(".csv")), len(read) - len(vectors)
    about = (len(vectors), left_out, source["seconds"], rates, calibration.band_hz(recipe), floored, share)
    return calibration, CalibrationReport(*about, len(whitening.scales), *spread)


def _save_statistics(stack: ExitStack, folder: Path, calibration: Calibration, whitening: Whitening) -> dict[str, str]:
    """Write mean, standard deviation and whitening, which appear when the stack ends; return the sha256 of each."""
    names = (WHITENING_NAME, STD_NAME, MEAN_NAME)
    whitening_path, std_path, mean_path = paths = [stack.enter_context(atomic_path(folder / n)) for n in names]
    save_array(mean_path, calibration.mean_db)
    save_array(std_path, calibration.std_db)
    whitening.save(whitening_path)
    return {name: sha256_of(path) for name, path in zip(names, paths, strict=True)}


def _save_z_scores(
    stack: ExitStack,
    path: Path,
    vectors: Rows,
    calibration: Calibration,
    made_with: dict[str, Any],
    table: Path,
    chosen: np.ndarray | None,
) -> tuple[float, ...]:
    """Write z-scores, how they were made, and a table of their recordings; return what `_write_z_scores` does."""
    manifest_path = stack.enter_context(atomic_path(path.with_suffix(".json")))
    about = made_with | {"rows": len(vectors)}
    if chosen is not None or file_names(table, len(vectors)):
        rows_path = stack.enter_context(atomic_path(path.with_suffix(".csv")))
        write_rows(table, rows_path, chosen)
        about[provenance.RECORDINGS] = sha256_of(rows_path)
    write_manifest(manifest_path, about)
    return _write_z_scores(stack.enter_context(atomic_path(path)), vectors, calibration)


def _read_vectors(path: Path, recipe: Recipe) -> NpyReader:
    """Open the vectors; raise ValueError if `path` holds too few, or something else."""
    vectors = NpyReader(path, recipe.vector_size)
    if len(vectors) < FEWEST:
        raise ValueError(f"{path} holds 1 recording; at least {FEWEST} are needed, and {FEW} or more are recommended")
    if not looks_like_vectors(vectors[:BLOCK], recipe):
        raise ValueError(
            f"{path} holds numbers that are not dB from -{recipe.top_db:g} to 0, z-scores perhaps: name the file that "
            "prep_audio_spectrograms.py wrote"
        )
    return vectors


def _choose(vectors: NpyReader, path: Path, most_missing: float | None) -> tuple[Rows, np.ndarray | None]:
    """Choose the rows of which not too much is missing; return them, and their numbers [K] or None for all."""
    if most_missing is None:
        return vectors, None
    chosen = undamaged_rows(path.with_suffix(".csv"), len(vectors), most_missing)
    if len(chosen) < FEWEST:
        raise ValueError(
            f"{path} holds {len(vectors)} recordings, but {len(chosen)} with at most {most_missing:.0%} missing; at "
            f"least {FEWEST} are needed: allow more damage"
        )
    return ChosenRows(vectors, chosen), chosen


def mean_and_std(vectors: "Rows | np.ndarray") -> tuple[np.ndarray, np.ndarray]:
    """Compute mean and population standard deviation (ddof 0) of each column of [N, P], float64 [P], block by block.

    Blocks are merged as in Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", 1979, which loses no digits where a mean is large and a standard deviation small.
    """
    count, mean, squares = 0, np.zeros(vectors.shape[1]), np.zeros(vectors.shape[1])
    for block in _blocks(vectors, "mean and std"):
        block_mean = block.mean(axis=0)
        shift, both = block_mean - mean, count + len(block)
        squares += ((block - block_mean) ** 2).sum(axis=0) + shift**2 * (count * len(block) / both)
        mean += shift * (len(block) / both)
        count = both
    return mean, np.sqrt(squares / count)


def looks_like_vectors(block: np.ndarray, recipe: Recipe = RECIPE) -> bool:
    """Tell whether the rows [B, P] are spectrograms in dB, rather than z-scores, which lie around 0."""
    return block.min() >= -recipe.top_db - 0.01 and block.max() <= 0.01 and block.mean() < -1


def check_z_scores(path: Path, block: np.ndarray, recipe: Recipe = RECIPE) -> None:
    """Raise ValueError if z-scores, of which `block` [B, P] are the first, are of another recipe, or something else."""
    manifest_path = path.with_suffix(".json")
    if manifest_path.is_file():
        check_recipe(read_manifest(manifest_path), recipe, manifest_path)
    if looks_like_vectors(block, recipe):
        raise ValueError(
            f"{path} holds dB from {block.min():.0f} to {block.max():.0f}, vectors, not z-scores: name the file that "
            "z_transformation_with_stats.py wrote"
        )


def _bands_used(varies: np.ndarray, recipe: Recipe) -> int:
    """Count the mel bands up to the highest one that is used, given which elements vary ([P] booleans).

    In a band that is used, at least half as many elements vary as in the band where most do. (Of short recordings with
    silence at both ends, only the columns in the middle vary.)
    """
    shares = varies.reshape(recipe.spectrogram_size, -1).mean(axis=1)
    used = np.flatnonzero((shares > 0) & (shares >= shares.max() / 2))
    return int((used[-1] + 1) * recipe.n_mels // recipe.spectrogram_size) if used.size else 0


def _blocks(vectors: "Rows | np.ndarray", what: str) -> Iterator[np.ndarray]:
    """Yield the rows as float64, a block at a time, with a progress bar if standard error is a terminal."""
    from tqdm import tqdm

    for start in tqdm(range(0, len(vectors), BLOCK), what, unit="block", delay=BAR_SECONDS, disable=None):
        yield np.asarray(vectors[start : start + BLOCK], dtype=np.float64)


def _write_z_scores(path: Path, vectors: Rows, calibration: Calibration) -> tuple[float, ...]:
    """Write z-scores, float32 [N, P]; return mean, std, largest, kurtosis and neighbour correlation of all elements."""
    rows, width = vectors.shape
    size = int(width**0.5)
    moments, products, pairs, largest = np.zeros(4), 0.0, 0, 0.0
    with NpyWriter(path, width) as z_scores:
        for block in _blocks(vectors, "z-scores"):
            z = calibration.z_score(block)
            z_scores.append(z)
            z = z.astype(np.float64)
            moments += [(z**power).sum() for power in (1, 2, 3, 4)]
            spectrograms = z.reshape(-1, size, size)  # [B, mel band, column]
            products += (spectrograms[:, :, :-1] * spectrograms[:, :, 1:]).sum()
            pairs += spectrograms[:, :, 1:].size
            largest = max(largest, float(np.abs(z).max()))
    first, second, third, fourth = (moments / (rows * width)).tolist()
    variance = second - first**2
    central = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
    # max(): if all recordings are the same, z is 0 everywhere
    kurtosis, neighbour = central / max(variance**2, 1e-12), (products / pairs - first**2) / max(variance, 1e-12)
    return first, max(variance, 0.0) ** 0.5, largest, kurtosis, neighbour


def _source_of(vectors_path: Path, rows: int, recipe: Recipe) -> dict[str, Any]:
    """Read how prep_audio_spectrograms.py made the vectors; without its manifest, the recipe is taken on trust."""
    manifest_path, table_path = vectors_path.with_suffix(".json"), vectors_path.with_suffix(".csv")
    unknown = {"recipe": recipe.to_json(), "constants": CONSTANTS, "libraries": {}, "seconds": None}
    if not manifest_path.is_file():
        return unknown | {"recordings_sha256": None}
    manifest = read_manifest(manifest_path)
    check_recipe(manifest, recipe, manifest_path)
    if manifest.get("recordings") != rows:
        raise ValueError(
            f"{manifest_path} says {manifest.get('recordings')} recordings, but {vectors_path} has {rows}; {AGAIN}"
        )
    check_files(manifest, manifest_path)
    return {name: manifest.get(name, other) for name, other in unknown.items()} | {
        "recordings_sha256": sha256_of(table_path) if table_path.is_file() else None
    }
