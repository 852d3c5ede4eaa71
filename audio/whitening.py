"""From the plain z-score of a voice to x_T: noise that a sampler takes for Gaussian, and that the voice decides.

A sampler expects x_T ~ N(0, I), independent elements of unit variance. A z-scored spectrogram is far from it: elements
beside each other correlate by 0.93, three axes hold half of its variance, and the noise of the room changes it more
than the speaker does. `Whitening.whiten` mends this in four steps, all of them on the picture in dB that the
z-score is made of (`z * std + mean`):

1. floor: whatever lies 20 dB below the loudest cell is the room, not the voice;
2. align: the columns that hold all but 3 % at either end of what is above the floor, squared, are stretched to the full
   width;
3. whiten: coefficients along the principal axes of many recordings, each over the root of its standard deviation, then
   the unit sphere: between the voice as it is and all axes alike, and better found again than either;
4. spread: one orthogonal map over all elements, at the radius of N(0, I). The low frequencies of x_T decide how a
   picture is laid out, so they are given to what is most reliably the voice: the first principal axes, which change
   least where a recording changes.

`audio.initial_noise` blends the result with seeded noise. This module needs NumPy alone, so that a script that reads
latents starts at once; only `Whitening.fit` takes SciPy. `python -m audio.whitening LATENTS.pt` says how near to noise
latents are (audio/gaussianity.py).

How floor, edges and axes were chosen, and what else was tried: models/calibration/README.md.

Sources: Kessy, Lewin, Strimmer, "Optimal whitening and decorrelation", 2018 (PCA whitening); Ailon, Chazelle, "The fast
Johnson-Lindenstrauss transform", 2009 (sign flips and Hadamard transforms as a fast random rotation); Everaert et al.,
"Exploiting the signal-leak bias in diffusion models", WACV 2024 (low frequencies of x_T decide the layout).
"""

import functools
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from audio.npy import NpyReader
from files import atomic_path

WHITENING_NAME = "whitening.npz"  # in a calibration's folder
AXES = 256  # principal axes: more tell more recordings apart, fewer withstand more noise
RECORDINGS_PER_AXIS = 4  # fewer, and the smallest variances are guesses
PRIOR_RECORDINGS = 50  # as many as the prior counts for where it is mixed with one's own
BLOCK = 512  # pictures held at a time while fitting
LONG_FIT = 20 * BLOCK  # recordings; from here on a progress bar is worth its line
RANGE_TOLERANCE_DB = 0.1  # float32 z-scores times std lose less than 0.001
SPREAD_SEED = 4096  # never change: the same voice would give another picture
SQUARES = 4  # a side of each channel: the means over them, the lowest frequencies of x_T, are the first axes' alone


@dataclass(frozen=True, eq=False)
class Whitening:
    """What a set of calibration recordings says about voices. P = picture elements (4096), K = principal axes."""

    mean_db: np.ndarray  # [P] float32: z-score = (dB - mean_db) / std_db
    std_db: np.ndarray  # [P] float32
    centre_db: np.ndarray  # [P] float32: mean of floored and aligned pictures
    components: np.ndarray  # [K, P] float16: principal axes of floored and aligned pictures, unit length
    scales: np.ndarray  # [K] float32: standard deviation along each, dB
    top_db: float = 80.0  # dB, depth of the pictures
    floor_db: float = 20.0  # dB below the loudest cell: the room
    edge_share: float = 0.03  # of the squares of what is above the floor: not the voice, at either end

    def __post_init__(self) -> None:
        """Raises ValueError where arrays do not belong together, as when a file was made by something else."""
        pixels, axes = self.mean_db.size, len(self.scales)
        shapes: dict[str, tuple[int, ...]] = {
            "mean_db": (pixels,),
            "std_db": (pixels,),
            "centre_db": (pixels,),
            "scales": (axes,),
        }
        shapes["components"] = (axes, pixels)
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype.kind != "f" or not np.isfinite(array).all():
                raise ValueError(f"{name} is {array.dtype} {array.shape}; finite floating point of {shape} is needed")
        if pixels & (pixels - 1) or math.isqrt(pixels) ** 2 != pixels or not 1 <= axes <= pixels:
            raise ValueError(f"{axes} axes of {pixels} elements; the elements must be a power of 4, the axes 1 to that")
        if not (self.std_db > 0).all() or not (self.scales > 0).all():
            raise ValueError("std_db and scales must be above 0 everywhere")
        if not (math.isfinite(self.top_db) and 0 < self.floor_db <= self.top_db and 0 <= self.edge_share < 0.5):
            raise ValueError(
                f"top_db {self.top_db}, floor_db {self.floor_db}, edge_share {self.edge_share} have no use"
            )

    @property
    def picture_size(self) -> int:
        return math.isqrt(self.mean_db.size)

    # --- making ------------------------------------------------------------------------------------------------------
    @classmethod
    def fit(
        cls,
        vectors: np.ndarray | NpyReader,  # [N, P] dB, not z-scores; may be a memory map
        mean_db: np.ndarray,  # [P], what z-scores are made with
        std_db: np.ndarray,  # [P]
        axes: int = AXES,
        prior: "Whitening | None" = None,
    ) -> "Whitening":
        """Learn centre and principal axes from N recordings. Memory does not grow with N.

        Fewer than four recordings for each axis say too little about its variance.
        Then the covariance is shrunk towards that of `prior`, if there is one: both are mixed as if the prior were of
        50 recordings. Without a prior fewer axes are found, N - 1 at most.
        """
        from scipy.sparse.linalg import eigsh

        mean_db, std_db = np.asarray(mean_db, np.float32), np.asarray(std_db, np.float32)
        blank = cls(mean_db, std_db, mean_db, np.ones((1, mean_db.size), np.float16), np.ones(1, np.float32))
        if prior is not None and prior.mean_db.shape != mean_db.shape:
            prior = None
        axes = min(axes, mean_db.size - 1 if prior else max(1, len(vectors) - 1))
        centre, covariance = blank._moments(vectors)
        share = own_share(len(vectors), axes)
        if prior is not None and share < 1:
            apart = centre - prior.centre_db
            rows = prior.components.astype(np.float64) * prior.scales[:, None]  # their products: prior's covariance
            rows = np.vstack((rows, math.sqrt(share) * apart)) * math.sqrt(1 - share)
            covariance *= share
            covariance += rows.T @ rows
            centre = share * centre + (1 - share) * prior.centre_db
        np.fill_diagonal(covariance, covariance.diagonal() + 1e-9)  # recordings that are all the same have axes, too
        # v0 is fixed so that the same recordings give the same axes; eigsh draws it at random otherwise
        variances, components = eigsh(covariance, k=axes, v0=np.ones(mean_db.size))
        variances, components = variances[::-1], components.T[::-1]  # largest first
        signs = np.sign(components[np.arange(axes), np.abs(components).argmax(axis=1)])  # an axis has no direction
        return replace(
            blank,
            centre_db=centre.astype(np.float32),
            components=(components * signs[:, None]).astype(np.float16),
            scales=np.sqrt(np.maximum(variances, 1e-6)).astype(np.float32),  # 0 where all recordings are the same
        )

    def _moments(self, vectors: np.ndarray | NpyReader) -> tuple[np.ndarray, np.ndarray]:
        """Mean [P] and covariance [P, P] of floored and aligned pictures, float64, block by block.

        The first block's mean is taken off all of them, so that nothing is lost in the difference of large numbers.
        """
        from scipy.linalg.blas import dsyrk
        from tqdm import tqdm

        size = self.mean_db.size
        origin, total = None, np.zeros(size)
        products = np.zeros((size, size), order="F")  # of the 128 MB of 4096 elements there is one copy, added to
        starts = range(0, len(vectors), BLOCK)
        for start in tqdm(starts, "whitening", unit="block", disable=True if len(vectors) < LONG_FIT else None):
            pictures = self.align(np.asarray(vectors[start : start + BLOCK], dtype=np.float64))  # [B, P]
            origin = pictures.mean(axis=0) if origin is None else origin
            pictures -= origin
            total += pictures.sum(axis=0)
            products = dsyrk(1.0, pictures.T, beta=1.0, c=products, overwrite_c=1)  # the upper triangle
        shift = total / len(vectors)
        products = dsyrk(-len(vectors), shift[:, None], beta=1.0, c=products, overwrite_c=1)
        products /= len(vectors)
        for column in range(size):  # the other triangle
            products[column + 1 :, column] = products[column, column + 1 :]
        assert origin is not None  # there is one block at least
        return origin + shift, products

    def save(self, path: Path) -> None:
        """Write a .npz of about 2 MB, without pickled objects."""
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            np.savez_compressed(stream, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "Whitening":
        """Read what `save` wrote.

        Raises:
            ValueError: the file is broken, or not one of these.
            OSError: it is not there, or may not be read.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {field.name: archive[field.name] for field in fields(cls)}
            values: dict[str, Any] = {name: float(x) if x.ndim == 0 else x for name, x in arrays.items()}
            return cls(**values)
        except (FileNotFoundError, PermissionError, IsADirectoryError, MemoryError):
            raise
        except Exception as error:  # a damaged file makes zipfile and NumPy raise nearly anything, even tokenize's own
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} is no whitening ({reason}); run z_transformation_with_stats.py again") from error

    # --- using -------------------------------------------------------------------------------------------------------
    def whiten(self, latents: np.ndarray) -> np.ndarray:
        """Plain z-scores [B, C, H, W] -> what the voices decide of x_T, float32 [B, C, H, W], norm sqrt(C*H*W) each.

        The same voice gives the same bits alone and in a batch.

        Raises:
            ValueError: another number of elements than this whitening was made for, or not finite.
        """
        codes = self.codes(self.align(self.decibels(latents)))
        scales = self.scales.astype(np.float64)
        noise = _spread(codes, scales / tree_sum(scales), latents.shape[1:]) * math.sqrt(self.mean_db.size)
        return noise.astype(np.float32)

    def fits(self, latents: np.ndarray) -> np.ndarray:
        """Bool [B]: do these z-scores give back pictures from -top_db to 0 dB? If not, other statistics made them."""
        decibels = self.decibels(latents)
        low, high = decibels.min(axis=1), decibels.max(axis=1)
        return (low >= -self.top_db - RANGE_TOLERANCE_DB) & (high <= RANGE_TOLERANCE_DB)

    def misfit(self, latents: np.ndarray) -> float:
        """How unlike a spectrogram of one recording the least likely of these is, in dB: to choose between statistics.

        The loudest cell of a picture is near 0 dB; wrong statistics move it, as they move all cells.
        """
        return float(np.abs(self.decibels(latents).max(axis=1)).max())

    def decibels(self, latents: np.ndarray) -> np.ndarray:
        """Undo the z-score: [B, C, H, W] -> float64 [B, P]."""
        flat = flatten(latents)
        if flat.shape[1] != self.mean_db.size:
            raise ValueError(f"latents of {flat.shape[1]} elements; these statistics are for {self.mean_db.size}")
        return flat * self.std_db + self.mean_db

    def align(self, decibels: np.ndarray) -> np.ndarray:
        """Steps 1 and 2: [B, P] dB -> float64 [B, P], 0 dB (loudest) to -floor_db, voice from edge to edge."""
        size = self.picture_size
        pictures = decibels.reshape(-1, size, size)  # [B, mel band, column]
        floored = np.maximum(pictures - pictures.max(axis=(1, 2), keepdims=True), -self.floor_db)
        above = floored + self.floor_db
        loudness = (above * above).sum(axis=1)  # [B, column]; above 0 where the loudest cell is
        edges = [_edges(columns, self.edge_share) for columns in loudness]
        aligned = [_stretch(picture, *where) for picture, where in zip(floored, edges, strict=True)]
        return np.stack(aligned).reshape(len(pictures), -1)

    def codes(self, aligned: np.ndarray) -> np.ndarray:
        """Step 3: [B, P] -> float64 [B, K] on the unit sphere. A picture equal to the centre has no direction: zeros
        would, so it gets equal parts of all axes."""
        components = self.components.astype(np.float64)
        # not a product of matrices, which rounds differently on another machine, and with the number of rows
        coefficients = np.stack([tree_sum(components * (picture - self.centre_db)) for picture in aligned])
        codes = coefficients / np.sqrt(self.scales.astype(np.float64))
        codes = np.where(np.abs(codes).max(axis=1, keepdims=True) > 0, codes, 1.0)
        return codes / lengths(codes)


def own_share(recordings: int, axes: int = AXES) -> float:
    """How much of a whitening these recordings decide themselves, where there is a prior for the rest."""
    return 1.0 if recordings >= RECORDINGS_PER_AXIS * axes else recordings / (recordings + PRIOR_RECORDINGS)


def flatten(latents: np.ndarray) -> np.ndarray:
    """[B, ...] -> float64 [B, elements], finite."""
    flat = np.asarray(latents, dtype=np.float64).reshape(len(latents), -1)
    if not np.isfinite(flat).all():
        raise ValueError("latents with elements that are not finite numbers; make them again")
    return flat


def tree_sum(x: np.ndarray) -> np.ndarray:
    """Sum over the last axis by halves: additions alone, in one order, so the same bits on every machine."""
    while (size := x.shape[-1]) > 1:
        half = size // 2
        folded = x[..., :half] + x[..., half : 2 * half]
        x = np.concatenate((folded, x[..., 2 * half :]), axis=-1) if size % 2 else folded
    return x[..., 0]


def lengths(rows: np.ndarray) -> np.ndarray:
    """Euclidean norm of each of [B, elements]: [B, 1]."""
    return np.sqrt(tree_sum(rows**2))[:, None]


def _edges(loudness: np.ndarray, share: float) -> tuple[float, float]:
    """Where along the columns [n] `share` of the loudness has passed, and where as much is left: 0 to n.

    A threshold on the columns would jump when noise lifts one above it; a share of the sum moves a little. Squared,
    many cells that are lifted a little weigh less than the few of a voice.
    """
    passed = np.concatenate(([0.0], np.cumsum(loudness)))
    first, last = np.interp([share, 1 - share], passed / passed[-1], np.arange(len(passed)))
    return float(first), float(last)


def _stretch(picture: np.ndarray, first: float, last: float) -> np.ndarray:
    """The part of [rows, n] from `first` to `last`, 0 to n, stretched to n columns by linear interpolation."""
    n = picture.shape[1]
    position = np.clip(first + (np.arange(n) + 0.5) * ((last - first) / n) - 0.5, 0, n - 1)
    left = np.minimum(position.astype(int), n - 2)
    weight = position - left
    return picture[:, left] * (1 - weight) + picture[:, left + 1] * weight


# --- step 4: one orthogonal map, without storing 4096 x 4096 numbers -------------------------------------------------
def _spread(codes: np.ndarray, variances: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Codes [B, K], each axis of its part [K] of the variance -> float64 [B, C, H, W], lengths and angles kept.

    Each axis from the first on gives one square's mean the variance that it has in noise, the rest is for all that the
    means leave open. The last channel gets the first axes, and within a channel each square hangs on all of its axes.
    With fewer axes than squares they take turns.
    """
    channels, height, width = shape
    squares, cells = channels * SQUARES**2, (height // SQUARES) * (width // SQUARES)
    turns = np.arange(squares) % codes.shape[1]
    count = np.bincount(turns, minlength=codes.shape[1])
    share = np.minimum(1.0, count / (squares * cells * variances))
    means = (codes * np.sqrt(share / np.maximum(count, 1)))[:, turns].reshape(len(codes), channels, SQUARES**2)
    means = hadamard((means[:, ::-1] * _signs(squares).reshape(channels, -1)).reshape(-1, SQUARES**2))
    rest = _scatter(codes * np.sqrt(1 - share), squares * (cells - 1))
    # of Hadamard's basis of each square the first is constant
    spread = hadamard(np.hstack((means.reshape(-1, 1), rest.reshape(-1, cells - 1))))
    spread = spread.reshape(len(codes), channels, SQUARES, SQUARES, height // SQUARES, width // SQUARES)
    return spread.swapaxes(3, 4).reshape(len(codes), *shape)


def _scatter(codes: np.ndarray, size: int) -> np.ndarray:
    """[B, K] -> float64 [B, size], lengths and angles kept. The codes are padded with zeros, then twice: random signs,
    Hadamard transforms, permutation. Once is not enough: with few axes it repeats itself all over the picture."""
    scattered = np.zeros((len(codes), size))
    scattered[:, : codes.shape[1]] = codes
    window = 1 << (size.bit_length() - 1)  # the largest power of 2: one at either end covers all
    for signs, order in _scattering(size):
        scattered *= signs
        for start in sorted({0, size - window}):
            scattered[:, start : start + window] = hadamard(scattered[:, start : start + window])
        scattered = scattered[:, order]
    return scattered


# RandomState's stream is frozen: no version of NumPy will change it
@functools.cache
def _scattering(size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Signs and permutations of `_scatter`."""
    draw = np.random.RandomState(SPREAD_SEED).random_sample
    return [(np.where(draw(size) < 0.5, -1.0, 1.0), np.argsort(draw(size), kind="stable")) for _ in range(2)]


@functools.cache
def _signs(count: int) -> np.ndarray:
    return np.where(np.random.RandomState(SPREAD_SEED).random_sample(count) < 0.5, -1.0, 1.0)


def hadamard(rows: np.ndarray) -> np.ndarray:
    """Orthonormal fast Walsh-Hadamard transform of each row, [B, size] with size a power of 2. It is its own inverse.

    Only additions and one division, in one order: the same bits on every machine.
    """
    size = rows.shape[1]
    half = 1
    while half < size:
        pairs = rows.reshape(len(rows), -1, 2, half)
        rows = np.stack((pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]), axis=2)
        half *= 2
    return rows.reshape(-1, size) / math.sqrt(size)


if __name__ == "__main__":
    import cli
    from audio.gaussianity import main

    cli.run(main)
