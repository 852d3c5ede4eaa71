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
latents starts at once; only `Whitening.fit` takes SciPy.

How floor, edges and axes were chosen, and what else was tried: models/calibration/README.md.

Sources: Kessy, Lewin, Strimmer, "Optimal whitening and decorrelation", 2018 (PCA whitening); Everaert et al.,
"Exploiting the signal-leak bias in diffusion models", WACV 2024 (low frequencies of x_T decide the composition).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from .files import atomic_path
from .npy import NpyReader
from .orthogonal_map import pairwise_sum, spread

WHITENING_NAME = "whitening.npz"  # in a calibration's folder
AXES = 256  # principal axes: more tell more recordings apart, fewer withstand more noise
RECORDINGS_PER_AXIS = 4  # fewer, and the smallest variances are guesses
PRIOR_RECORDINGS = 50  # as many as the prior counts for where it is mixed with one's own
BLOCK = 512  # pictures held at a time while fitting
LONG_FIT = 20 * BLOCK  # recordings; from here on a progress bar is worth its line
RANGE_TOLERANCE_DB = 0.1  # float32 z-scores times std lose less than 0.001


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
    def whiten(self, latents: np.ndarray, shape: Sequence[int] | None = None) -> np.ndarray:
        """Turn plain z-scores into noise that the voice decides: what it contributes to x_T.

        The same voice gives the same bits alone and in a batch.

        Args:
            latents: z-scores [B, C, H, W] as they were made, C * H * W = P.
            shape: (c, h, w) of the noise, any; None: as the latents.

        Returns:
            float32 [B, c, h, w] with the properties of N(0, I), each of norm sqrt(c * h * w).

        Raises:
            ValueError: the latents have another number of elements than this whitening was made for, or elements that
                are not finite; or `shape` is too small for a voice.
        """
        codes = self.codes(self.align(self.decibels(latents)))
        scales = self.scales.astype(np.float64)
        shape = tuple(latents.shape[1:] if shape is None else shape)
        noise = spread(codes, scales / pairwise_sum(scales), shape) * math.sqrt(math.prod(shape))
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
        coefficients = np.stack([pairwise_sum(components * (picture - self.centre_db)) for picture in aligned])
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


def lengths(rows: np.ndarray) -> np.ndarray:
    """Euclidean norm of each of [B, elements]: [B, 1]."""
    return np.sqrt(pairwise_sum(rows**2))[:, None]


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
