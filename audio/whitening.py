"""From the plain z-score of a voice to x_T: noise that a sampler takes for Gaussian, and that the voice decides.

A sampler expects x_T ~ N(0, I), independent elements of unit variance. A z-scored spectrogram is far from it: elements
beside each other correlate by 0.93, three axes hold half of its variance, and the noise of the room changes it more
than the speaker does. `Whitening.voice_noise` mends this in four steps, all of them on the picture in dB that the
z-score is made of (`z * std + mean`):

1. floor: whatever lies 30 dB below the loudest cell is the room, not the voice;
2. align: silent columns at both ends are dropped, the others stretched to the full width again;
3. whiten: coefficients along the principal axes of many recordings, each at unit variance, then the unit sphere;
4. spread: one fixed orthogonal map over all elements, at the radius of N(0, I).

`mix` blends the result with seeded noise. This module needs NumPy alone, so that a script that reads latents starts
at once; only `Whitening.fit` takes SciPy.

Sources: Kessy, Lewin, Strimmer, "Optimal whitening and decorrelation", 2018 (PCA whitening); Ailon, Chazelle, "The fast
Johnson-Lindenstrauss transform", 2009 (sign flips and Hadamard transforms as a fast random rotation).
"""

import functools
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from files import atomic_path

WHITENING_NAME = "whitening.npz"  # in a calibration's folder
AXES = 128  # principal axes: more tell more recordings apart, fewer withstand more noise
RECORDINGS_PER_AXIS = 4  # fewer, and the smallest variances are guesses
PRIOR_RECORDINGS = 50  # as many as the prior's centre counts for where it is mixed with one's own
BLOCK = 512  # pictures held at a time while fitting
RANGE_TOLERANCE_DB = 0.1  # float32 z-scores times std lose less than 0.001
SPREAD_SEED = 4096  # never change: the same voice would give another picture

# Limits of `is_gaussian`, each five standard deviations or more of what N(0, I_4096) shows: the mean varies by
# 1/64 = 0.016, norm / 64 by 1/sqrt(2 * 4096) = 0.011, the correlation of 3,968 pairs of neighbours by 0.016.
MEAN_LIMIT, RADIUS_LIMIT, NEIGHBOUR_LIMIT = 0.08, 0.06, 0.08


@dataclass(frozen=True, eq=False)
class Whitening:
    """What a set of calibration recordings says about voices. P = picture elements (4096), K = principal axes."""

    mean_db: np.ndarray  # [P] float32: z-score = (dB - mean_db) / std_db
    std_db: np.ndarray  # [P] float32
    centre_db: np.ndarray  # [P] float32: mean of floored and aligned pictures
    components: np.ndarray  # [K, P] float16: principal axes of floored and aligned pictures, unit length
    scales: np.ndarray  # [K] float32: standard deviation along each, dB
    top_db: float = 80.0  # dB, depth of the pictures
    floor_db: float = 30.0  # dB below the loudest cell: the room
    silence_db: float = 25.0  # dB below the loudest cell: a column without a voice

    def __post_init__(self) -> None:
        """Raises ValueError where arrays do not belong together, as when a file was made by something else."""
        pixels, axes = self.mean_db.size, len(self.scales)
        shapes = {"mean_db": (pixels,), "std_db": (pixels,), "centre_db": (pixels,), "scales": (axes,)}
        shapes["components"] = (axes, pixels)
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype.kind != "f" or not np.isfinite(array).all():
                raise ValueError(f"{name} is {array.dtype} {array.shape}; finite floating point of {shape} is needed")
        if pixels & (pixels - 1) or math.isqrt(pixels) ** 2 != pixels or not 1 <= axes <= pixels:
            raise ValueError(f"{axes} axes of {pixels} elements; the elements must be a power of 4, the axes 1 to that")
        if not (self.std_db > 0).all() or not (self.scales > 0).all():
            raise ValueError("std_db and scales must be above 0 everywhere")

    @property
    def picture_size(self) -> int:
        return math.isqrt(self.mean_db.size)

    # --- making ------------------------------------------------------------------------------------------------------
    @classmethod
    def fit(
        cls,
        vectors: np.ndarray,  # [N, P] dB, not z-scores; may be a memory map
        mean_db: np.ndarray,  # [P], what z-scores are made with
        std_db: np.ndarray,  # [P]
        axes: int = AXES,
        prior: "Whitening | None" = None,
    ) -> "Whitening":
        """Learn centre and principal axes from N recordings. Memory does not grow with N.

        N // 4 axes at most, for a variance that fewer than four recordings speak for is a guess, and whitening divides
        by its root. Where that leaves fewer than `axes`, the axes of `prior` are taken instead if there is one, and
        of the centre a share that grows with N is these recordings' own: N / (N + PRIOR_RECORDINGS).
        """
        from scipy.sparse.linalg import eigsh

        mean_db, std_db = np.asarray(mean_db, np.float32), np.asarray(std_db, np.float32)
        allowed = max(1, min(axes, len(vectors) // RECORDINGS_PER_AXIS))
        blank = cls(mean_db, std_db, mean_db, np.ones((1, mean_db.size), np.float16), np.ones(1, np.float32))
        total, products = np.zeros(mean_db.size), np.zeros((mean_db.size, mean_db.size))
        for start in range(0, len(vectors), BLOCK):
            pictures = blank.align(np.asarray(vectors[start : start + BLOCK], dtype=np.float64))  # [B, P]
            total += pictures.sum(axis=0)
            products += pictures.T @ pictures
        centre = total / len(vectors)
        if allowed < axes and prior is not None and prior.mean_db.shape == mean_db.shape:
            own = len(vectors) / (len(vectors) + PRIOR_RECORDINGS)
            centre = own * centre + (1 - own) * prior.centre_db
            return replace(prior, mean_db=mean_db, std_db=std_db, centre_db=centre.astype(np.float32))
        covariance = products / len(vectors) - np.outer(centre, centre)
        # v0 is fixed so that the same recordings give the same axes; eigsh draws it at random otherwise
        variances, components = eigsh(covariance, k=allowed, v0=np.ones(mean_db.size))
        variances, components = variances[::-1], components.T[::-1]  # largest first
        signs = np.sign(components[np.arange(allowed), np.abs(components).argmax(axis=1)])  # an axis has no direction
        return replace(
            blank,
            centre_db=centre.astype(np.float32),
            components=(components * signs[:, None]).astype(np.float16),
            scales=np.sqrt(np.maximum(variances, 1e-6)).astype(np.float32),  # 0 where all recordings are the same
        )

    def save(self, path: Path) -> None:
        """Write a .npz of about 1 MB, without pickled objects."""
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
            return cls(**{name: float(array) if array.ndim == 0 else array for name, array in arrays.items()})
        except (FileNotFoundError, PermissionError, IsADirectoryError, MemoryError):
            raise
        except Exception as error:  # a damaged file makes zipfile and NumPy raise nearly anything, even tokenize's own
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} is no whitening ({reason}); run z_transformation_with_stats.py again") from error

    # --- using -------------------------------------------------------------------------------------------------------
    def voice_noise(self, latents: np.ndarray) -> np.ndarray:
        """Plain z-scores [B, C, H, W] -> what the voices decide of x_T, float32 [B, C, H, W], norm sqrt(C*H*W) each.

        The same voice gives the same bits alone and in a batch.

        Raises:
            ValueError: another number of elements than this whitening was made for, or not finite.
        """
        codes = self.codes(self.align(self.decibels(latents)))
        noise = _spread(codes, self.mean_db.size) * math.sqrt(self.mean_db.size)
        return noise.astype(np.float32).reshape(latents.shape)

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
        flat = _flat(latents)
        if flat.shape[1] != self.mean_db.size:
            raise ValueError(f"latents of {flat.shape[1]} elements; these statistics are for {self.mean_db.size}")
        return flat * self.std_db + self.mean_db

    def align(self, decibels: np.ndarray) -> np.ndarray:
        """Steps 1 and 2: [B, P] dB -> float64 [B, P], 0 dB (loudest) to -floor_db, voice from edge to edge."""
        size = self.picture_size
        pictures = decibels.reshape(-1, size, size)  # [B, mel band, column]
        pictures = pictures - pictures.max(axis=(1, 2), keepdims=True)
        sounding = pictures.max(axis=1) > -self.silence_db  # [B, column]; the loudest cell's always is
        floored = np.maximum(pictures, -self.floor_db)
        aligned = [
            _stretch(picture[:, _from_first_to_last(on)], size) for picture, on in zip(floored, sounding, strict=True)
        ]
        return np.stack(aligned).reshape(len(pictures), -1)

    def codes(self, aligned: np.ndarray) -> np.ndarray:
        """Step 3: [B, P] -> float64 [B, K] on the unit sphere. A picture equal to the centre has no direction: zeros
        would, so it gets equal parts of all axes."""
        components = self.components.astype(np.float64)
        # one product for each picture: a product of matrices rounds differently with the number of rows
        codes = np.stack([components @ (picture - self.centre_db) for picture in aligned]) / self.scales
        codes = np.where(np.abs(codes).max(axis=1, keepdims=True) > 0, codes, 1.0)
        return codes / np.linalg.norm(codes, axis=1, keepdims=True)


def mix(voice: np.ndarray, noise: np.ndarray, strength: float) -> np.ndarray:
    """Blend voices with Gaussian noise: sqrt(strength) * voice + sqrt(1 - strength) * noise, [B, C, H, W] float32.

    Both have independent unit-variance elements, so the blend has, too. Its norm is set to that of the noise, which
    follows the chi distribution as that of any x_T ~ N(0, I): the voice decides the direction, never the radius.

    Raises:
        ValueError: strength outside 0..1, or shapes that differ.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"a strength of {strength}; 0 (noise alone) to 1 (voice alone) is allowed")
    if voice.shape != noise.shape:
        raise ValueError(f"a voice of {voice.shape} and noise of {noise.shape}; they must have one shape")
    if strength == 0:
        return noise.astype(np.float32)
    blend = math.sqrt(strength) * _flat(voice) + math.sqrt(1 - strength) * _flat(noise)
    lengths = np.linalg.norm(blend, axis=1, keepdims=True)
    radii = np.linalg.norm(_flat(noise), axis=1, keepdims=True)
    return (blend * (radii / np.maximum(lengths, 1e-12))).astype(np.float32).reshape(noise.shape)


def is_gaussian(latents: np.ndarray) -> np.ndarray:
    """Bool [B]: could each of these latents [B, C, H, W] be a draw from N(0, I)?

    Looks at the mean, the norm, and the correlation with the right and the lower neighbour. More than 99.99 % of draws
    pass; z-scored spectrograms do not, for their neighbours correlate by 0.9.
    """
    latents = np.asarray(latents, dtype=np.float64)
    flat = _flat(latents)
    mean_ok = np.abs(flat.mean(axis=1)) <= MEAN_LIMIT
    radius_ok = np.abs(np.linalg.norm(flat, axis=1) / math.sqrt(flat.shape[1]) - 1) <= RADIUS_LIMIT
    right = _correlation(latents[..., :-1], latents[..., 1:])
    lower = _correlation(latents[..., :-1, :], latents[..., 1:, :])
    return mean_ok & radius_ok & (np.abs(right) <= NEIGHBOUR_LIMIT) & (np.abs(lower) <= NEIGHBOUR_LIMIT)


def _flat(latents: np.ndarray) -> np.ndarray:
    """[B, ...] -> float64 [B, elements], finite."""
    flat = np.asarray(latents, dtype=np.float64).reshape(len(latents), -1)
    if not np.isfinite(flat).all():
        raise ValueError("latents with elements that are not finite numbers; make them again")
    return flat


def _correlation(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Pearson's correlation of two [B, ...]: [B]. 0 where one of them is constant."""
    left, right = (_flat(half) - _flat(half).mean(axis=1, keepdims=True) for half in (left, right))
    scale = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return (left * right).sum(axis=1) / np.where(scale > 0, scale, 1.0)


def _from_first_to_last(on: np.ndarray) -> slice:
    """The part of a row of booleans [columns] between the first and the last that is true."""
    where = np.flatnonzero(on)
    return slice(where[0], where[-1] + 1)


def _stretch(picture: np.ndarray, columns: int) -> np.ndarray:
    """Resize [rows, n] to [rows, columns] by linear interpolation between the centres of columns."""
    n = picture.shape[1]
    position = np.clip((np.arange(columns) + 0.5) * n / columns - 0.5, 0, n - 1)
    left = np.minimum(position.astype(int), max(n - 2, 0))
    weight = position - left
    return picture[:, left] * (1 - weight) + picture[:, np.minimum(left + 1, n - 1)] * weight


# --- step 4: one fixed orthogonal map, without storing 4096 x 4096 numbers -------------------------------------------
def _spread(codes: np.ndarray, size: int) -> np.ndarray:
    """[B, K] -> float64 [B, size], lengths and angles kept. The codes are padded with zeros, then twice: random signs,
    Hadamard transform, permutation. Once is not enough: with few axes it repeats itself all over the picture."""
    spread = np.zeros((len(codes), size))
    spread[:, : codes.shape[1]] = codes
    for signs, order in _spreading(size):
        spread = hadamard(spread * signs)[:, order]
    return spread


@functools.cache
def _spreading(size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Signs and permutations of `_spread`. RandomState's stream is frozen: no version of NumPy will change it."""
    random = np.random.RandomState(SPREAD_SEED)
    draw = random.random_sample
    return [(np.where(draw(size) < 0.5, -1.0, 1.0), np.argsort(draw(size), kind="stable")) for _ in range(2)]


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
