"""Turn the plain z-score of a voice into noise: Gaussian to a sampler, and determined by the voice.

A sampler expects x_T ~ N(0, I), independent elements of unit variance. A z-scored spectrogram is far from it:
neighbours correlate by 0.93, three axes hold half of its variance, and the noise of the room changes it more than the
speaker does. `Whitening.whiten` makes noise of it in six steps. They work on the spectrogram in dB that the z-score is
made from (`z * std + mean`):

1. Floor: what a band nearly always has is subtracted, as power, because it is the noise of the room. So is what lies
   more than 30 dB below the loudest cell.
2. Align: silence at both ends is cut off, and the rest is stretched to the full width. The ends are where 3 % of the
   squared level above -20 dB has passed.
3. Embed: a network makes numbers that stay when the same is said again, elsewhere, too (audio/embedding.py).
4. Name: ten qualities that a voice has again when it says the same again, such as pitch and brightness, become
   independent numbers from N(0, 1) (audio/qualities.py).
5. Whiten: project onto the principal axes of many recordings, divide each coefficient by the square root of its
   standard deviation, and normalise to unit length. This is half-way between no whitening and full PCA whitening;
   recordings are recognised more often than with either. These have a tenth of the variance, the embedding the rest.
6. Spread: one orthogonal map spreads all numbers over all elements, with the norm of N(0, I)
   (audio/orthogonal_map.py). The low frequencies of x_T decide the composition of an image, so they carry the named
   qualities, and then the numbers of the embedding, those that repeat best first.

`audio.initial_noise` mixes the result with seeded noise. This module needs NumPy alone, so that a script that reads
latents starts at once; only `Whitening.fit` needs SciPy. models/calibration/README.md says how floor, ends and axes
were chosen, and what else was tried.

Sources: Kessy, Lewin, Strimmer, "Optimal whitening and decorrelation", 2018 (PCA whitening); Everaert et al.,
"Exploiting the signal-leak bias in diffusion models", WACV 2024 (low frequencies of x_T decide the composition).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from .embedding import builtin, stretched
from .files import atomic_path
from .mel import mel_edges
from .npy import Rows
from .orthogonal_map import pairwise_sum, spread, with_named
from .qualities import NAMES, UNHEARD, Heard, QualityScale, measure, without_noise
from .recipe import RECIPE

WHITENING_NAME = "whitening.npz"  # in a calibration's folder
EDGE_FLOOR_DB = 20.0  # below the loudest cell; softer sound does not decide where a voice begins and ends
AXES = 256  # principal axes: more of them distinguish more recordings, fewer of them are more robust to noise
RECORDINGS_PER_AXIS = 4  # with fewer, the smallest variances are unreliable
PRIOR_RECORDINGS = 50  # weight of the prior when it is mixed with the user's recordings
QUALITY = "quality_"  # begins the names of the arrays of `Whitening.qualities` in a file
EMBEDDED = 0.9  # of the variance of x_T: the embedding's; the rest is that of the principal axes
BLOCK = 512  # spectrograms held in memory at a time while fitting
FEW_ROWS = 2 * BLOCK  # recordings; their rows are kept, which are smaller and faster than a covariance
MEASURED = 8 * BLOCK  # recordings; more of them hardly move the places of the qualities, and would fill the memory
NOISE_VARIANCE = 1e-9  # dB², added along each axis, so that identical recordings have axes, too
SMALLEST_VARIANCE = 1e-6  # of the largest; below it the axes of rows lose digits
BAR_SECONDS = 0.5  # a progress bar appears on a terminal for what takes longer
RANGE_TOLERANCE_DB = 0.1  # dB; the rounding of float32 z-scores is below 0.001


@dataclass(frozen=True, eq=False)
class Whitening:
    """Statistics of calibration recordings, and the map from a voice to noise.

    P = elements of a spectrogram (4096), K = principal axes.
    """

    mean_db: np.ndarray  # [P] float32: z-score = (dB - mean_db) / std_db
    std_db: np.ndarray  # [P] float32
    centre_db: np.ndarray  # [P] float32: mean of floored and aligned spectrograms
    components: np.ndarray  # [K, P] float16: principal axes of floored and aligned spectrograms, unit length
    scales: np.ndarray  # [K] float32: standard deviation along each axis, dB
    top_db: float = 80.0  # dB, depth of the spectrograms
    floor_db: float = 30.0  # dB below the loudest cell; what lies lower is the room
    edge_share: float = 0.03  # of the squared level above -EDGE_FLOOR_DB; cut off at either end
    qualities: QualityScale = field(default_factory=QualityScale.blank)

    def __post_init__(self) -> None:
        """Raise ValueError if the arrays do not fit together, as in a file from another program."""
        cells, axes = self.mean_db.size, len(self.scales)
        shapes: dict[str, tuple[int, ...]] = {
            "mean_db": (cells,),
            "std_db": (cells,),
            "centre_db": (cells,),
            "scales": (axes,),
        }
        shapes["components"] = (axes, cells)
        shapes |= {f"{QUALITY}{name}": shape for name, shape in QualityScale.shapes().items()}
        for name, shape in shapes.items():
            array = _array(self, name)
            if array.shape != shape or array.dtype.kind != "f" or not np.isfinite(array).all():
                raise ValueError(f"{name} is {array.dtype} {array.shape}; finite floating point of {shape} is needed")
        if cells & (cells - 1) or math.isqrt(cells) ** 2 != cells or not 1 <= axes <= cells:
            raise ValueError(f"{axes} axes of {cells} elements; the elements must be a power of 4, the axes 1 to that")
        if not (self.std_db > 0).all() or not (self.scales > 0).all():
            raise ValueError("std_db and scales must be above 0 everywhere")
        if not (math.isfinite(self.top_db) and 0 < self.floor_db <= self.top_db and 0 <= self.edge_share < 0.5):
            raise ValueError(
                f"top_db {self.top_db}, floor_db {self.floor_db}, edge_share {self.edge_share} are out of range"
            )

    @property
    def spectrogram_size(self) -> int:
        """Rows and columns of a spectrogram: 64."""
        return math.isqrt(self.mean_db.size)

    # --- making ------------------------------------------------------------------------------------------------------
    @classmethod
    def fit(
        cls,
        vectors: np.ndarray | Rows,  # [N, P] dB, not z-scores; may be a memory map
        mean_db: np.ndarray,  # [P], what z-scores are made with
        std_db: np.ndarray,  # [P]
        axes: int = AXES,
        prior: "Whitening | None" = None,
        heard: Sequence[Heard] = (),  # of each recording; none if it is not known
    ) -> "Whitening":
        """Learn centre and principal axes from N recordings. Memory does not grow with N.

        Fewer than four recordings per axis say too little about its variance. Then the covariance is shrunk towards
        that of `prior`, if there is one: both are mixed as if the prior were made from 50 recordings. Without a prior
        there are fewer axes, at most N - 1.
        """
        mean_db, std_db = np.asarray(mean_db, np.float32), np.asarray(std_db, np.float32)
        blank = cls(mean_db, std_db, mean_db, np.ones((1, mean_db.size), np.float16), np.ones(1, np.float32))
        if prior is not None and prior.mean_db.shape != mean_db.shape:
            prior = None
        axes = min(axes, mean_db.size - 1)
        if prior is None:
            axes = min(axes, max(1, len(vectors) - 1))
        share = own_share(len(vectors), axes)
        centre, rows, covariance = blank._moments(vectors)
        qualities = QualityScale.fit(blank._measured(vectors, heard))
        if prior is None or share == 1:
            share, others = 1.0, np.zeros((0, mean_db.size))
        else:
            # covariance of a mixture: that of both parts, and of the distance between their means
            others = prior.components.astype(np.float64) * prior.scales[:, None]  # others.T @ others: the prior's
            others = np.vstack((others, math.sqrt(share) * (centre - prior.centre_db))) * math.sqrt(1 - share)
            centre = share * centre + (1 - share) * prior.centre_db
            qualities = qualities.mixed(prior.qualities, share)
        if covariance is None:
            variances, components = _axes_of_rows(np.vstack((math.sqrt(share / len(rows)) * rows, others)), axes)
        else:
            covariance *= share
            covariance += others.T @ others
            variances, components = _axes_of_covariance(covariance, axes)
        # an eigenvector may have either sign: its largest element is made positive
        signs = np.sign(components[np.arange(axes), np.abs(components).argmax(axis=1)])
        return replace(
            blank,
            centre_db=centre.astype(np.float32),
            components=(components * signs[:, None]).astype(np.float16),
            scales=np.sqrt(np.maximum(variances, 1e-6)).astype(np.float32),  # 0 if all recordings are the same
            qualities=qualities,
        )

    def _measured(self, vectors: np.ndarray | Rows, heard: Sequence[Heard]) -> np.ndarray:
        """Measure the qualities of the recordings, or of every k-th of very many: float64 [up to MEASURED, Q]."""
        rows = range(0, len(vectors), -(-len(vectors) // MEASURED))
        blocks = []
        for start in range(0, len(rows), BLOCK):
            chosen = rows[start : start + BLOCK]
            spectrograms = np.concatenate([vectors[row : row + 1] for row in chosen]).astype(np.float64)
            blocks.append(self.measure(self.stretch(spectrograms), [heard[row] for row in chosen] if heard else ()))
        return np.concatenate(blocks)

    def _moments(self, vectors: np.ndarray | Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Compute mean [P], deviations [N, P] and None; or of many spectrograms mean, no rows, and covariance [P, P].

        Spectrograms are floored and aligned. All are float64. The first block's mean is subtracted from all blocks, so
        that differences of large numbers lose no digits.
        """
        from tqdm import tqdm

        size = self.mean_db.size
        few = len(vectors) <= min(FEW_ROWS, size)
        origin, total = None, np.zeros(size)
        rows = []
        products = np.zeros((0 if few else size, size), order="F")  # 128 MB for 4096 elements, updated in place
        starts = range(0, len(vectors), BLOCK)
        for start in tqdm(starts, "whitening", unit="block", delay=BAR_SECONDS, disable=None):
            aligned = self.align(np.asarray(vectors[start : start + BLOCK], dtype=np.float64))  # [B, P]
            origin = aligned.mean(axis=0) if origin is None else origin
            aligned -= origin
            total += aligned.sum(axis=0)
            if few:
                rows.append(aligned)
            else:
                _add_products(products, aligned, 1.0)
        assert origin is not None  # there is one block at least
        shift = total / len(vectors)
        if few:
            return origin + shift, np.concatenate(rows) - shift, None
        _add_products(products, shift[None], -len(vectors))
        products /= len(vectors)
        for column in range(size):  # copies the upper triangle to the lower one
            products[column + 1 :, column] = products[column, column + 1 :]
        return origin + shift, np.zeros((0, size)), products

    def save(self, path: Path) -> None:
        """Write a .npz of about 2 MB, without pickled objects.

        Raises:
            OSError: the file cannot be written.
        """
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            np.savez_compressed(stream, **{name: _array(self, name) for name in _names()})

    @classmethod
    def load(cls, path: Path) -> "Whitening":
        """Read a file that `save` has written.

        Raises:
            ValueError: the file is broken, or something else.
            OSError: it does not exist or cannot be read.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in _names()}
            values: dict[str, Any] = {name: float(x) if x.ndim == 0 else x for name, x in arrays.items()}
            of_qualities = {name: values.pop(f"{QUALITY}{name}") for name in QualityScale.shapes()}
            return cls(**values, qualities=QualityScale(**of_qualities))
        except (FileNotFoundError, PermissionError, IsADirectoryError, MemoryError):
            raise
        except Exception as error:  # a damaged file makes zipfile and NumPy raise nearly any error
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{path} is not a whitening ({reason}); run z_transformation_with_stats.py again"
            ) from error

    # --- using -------------------------------------------------------------------------------------------------------
    def whiten(
        self, latents: np.ndarray, shape: Sequence[int] | None = None, heard: Sequence[Heard] = ()
    ) -> np.ndarray:
        """Turn plain z-scores into noise that the voice decides: what it contributes to x_T.

        The same voice gives the same bits alone and in a batch.

        Args:
            latents: z-scores [B, C, H, W] as they were made, C * H * W = P.
            shape: (c, h, w) of the noise, any; None: as the latents.
            heard: what the z-scores do not hold of each recording; none if it is not known.

        Returns:
            float32 [B, c, h, w] with the properties of N(0, I), each of norm sqrt(c * h * w).

        Raises:
            ValueError: the latents have another number of elements than this whitening was made for, or elements that
                are not finite; or `shape` has no room for any axis.
        """
        shape = tuple(latents.shape[1:] if shape is None else shape)
        noise = spread(*with_named(*self.codes(latents, heard), shape), shape)
        return (noise * math.sqrt(math.prod(shape))).astype(np.float32)

    def codes(self, latents: np.ndarray, heard: Sequence[Heard] = ()) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Do steps 1 to 5: what `whiten` spreads.

        Spectrograms of another size than the embedding was taught with are whitened without it.

        Args:
            latents: z-scores [B, C, H, W], C * H * W = P.
            heard: as in `whiten`.

        Returns:
            The named qualities [B, Q] from N(0, 1), what else identifies the voices [B, K] of unit length, and the part
            of the variance that each of these numbers has, [K]. All are float64.

        Raises:
            ValueError: as `whiten`.
        """
        spectrograms = self.stretch(self.to_decibels(latents))
        values = self.measure(spectrograms, heard)
        named, axes, scales = self.qualities(values), self.embed(self.floor(spectrograms)), self.scales.astype(float)
        parts = scales / pairwise_sum(scales)
        embedding = builtin()
        if self.spectrogram_size != embedding.size:
            return named, axes, parts
        octaves = values[:, NAMES.index("duration")]
        numbers = embedding.numbers(spectrograms, octaves)
        shares = embedding.shares.astype(np.float64)
        embedded = _normalised(embedding.told_apart(numbers, spectrograms, octaves) * np.sqrt(shares))
        both = np.concatenate((math.sqrt(EMBEDDED) * embedded, math.sqrt(1 - EMBEDDED) * axes), axis=1)
        parts = np.concatenate((EMBEDDED * shares, (1 - EMBEDDED) * parts))
        return embedding.said_again(named, numbers), both, parts

    def measure(self, spectrograms: np.ndarray, heard: Sequence[Heard] = ()) -> np.ndarray:
        """Measure the qualities of `stretch`ed spectrograms, [B, Q]; see `qualities.measure`."""
        band_hz = mel_edges(replace(RECIPE, n_mels=self.spectrogram_size))[1:-1]
        return measure(spectrograms, band_hz, heard or [UNHEARD] * len(spectrograms))

    def fits(self, latents: np.ndarray) -> np.ndarray:
        """Test whether z-scores are from -top_db to 0 dB, bool [B]; if not, other statistics made them."""
        decibels = self.to_decibels(latents)
        low, high = decibels.min(axis=1), decibels.max(axis=1)
        return (low >= -self.top_db - RANGE_TOLERANCE_DB) & (high <= RANGE_TOLERANCE_DB)

    def plausibility_error(self, latents: np.ndarray) -> float:
        """Measure in dB how unlike a spectrogram the least likely of these z-scores is, to choose between statistics.

        The loudest cell of a spectrogram is near 0 dB. Wrong statistics move it, as they move all cells.
        """
        return float(np.abs(self.to_decibels(latents).max(axis=1)).max())

    def to_decibels(self, latents: np.ndarray) -> np.ndarray:
        """Undo the z-score: [B, C, H, W] -> dB, float64 [B, P]."""
        flat = flatten(latents)
        if flat.shape[1] != self.mean_db.size:
            raise ValueError(f"the latents have {flat.shape[1]} elements; these statistics are for {self.mean_db.size}")
        return flat * self.std_db + self.mean_db

    def align(self, decibels: np.ndarray) -> np.ndarray:
        """Floor and align (steps 1 and 2): [B, P] dB -> float64 [B, P] from -floor_db to 0 dB."""
        return self.floor(self.stretch(decibels))

    def floor(self, spectrograms: np.ndarray) -> np.ndarray:
        """Set what is softer than the floor to it: [B, n, n] dB -> [B, P]."""
        return np.maximum(spectrograms, -self.floor_db).reshape(len(spectrograms), -1)

    def stretch(self, decibels: np.ndarray) -> np.ndarray:
        """Subtract the noise of the room, and stretch what is between silent ends: [B, P] dB -> float64 [B, n, n]."""
        size = self.spectrogram_size
        spectrograms = without_noise(decibels.reshape(-1, size, size))  # [B, mel band, column]
        above = np.maximum(spectrograms + EDGE_FLOOR_DB, 0)
        energy = (above * above).sum(axis=1)  # [B, column]; never 0 everywhere, because of the loudest cell
        bounds = [_energy_bounds(columns, self.edge_share) for columns in energy]
        return np.stack([stretched(one, *where, size) for one, where in zip(spectrograms, bounds, strict=True)])

    def embed(self, aligned: np.ndarray) -> np.ndarray:
        """Embed aligned spectrograms (step 3): [B, P] -> codes, float64 [B, K], of unit length.

        A spectrogram equal to the mean has no direction (all coefficients are 0 and cannot be normalised), so it gets
        equal coefficients.
        """
        components = self.components.astype(np.float64)
        # no matrix product, because its rounding depends on the machine and on the number of rows
        coefficients = np.stack([pairwise_sum(components * (one - self.centre_db)) for one in aligned])
        return _normalised(coefficients / np.sqrt(self.scales.astype(np.float64)))


def _add_products(products: np.ndarray, rows: np.ndarray, factor: float) -> None:
    """Add factor * rows.T @ rows to the upper triangle of products [P, P], in place."""
    from scipy.linalg.blas import dsyrk

    added = dsyrk(factor, rows.T, beta=1.0, c=products, overwrite_c=1)
    assert added is products or np.shares_memory(added, products)


def _axes_of_rows(rows: np.ndarray, axes: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the largest eigenvalues [axes] of rows.T @ rows, and the eigenvectors [axes, P], of few rows [R, P].

    rows @ rows.T [R, R] has the same eigenvalues. Its eigenvectors u give those of the other, rows.T @ u, up to length.
    (Sirovich, "Turbulence and the dynamics of coherent structures", 1987, calls it the method of snapshots.)
    """
    variances, vectors = np.linalg.eigh(rows @ rows.T)
    variances, vectors = variances[: -axes - 1 : -1], vectors[:, : -axes - 1 : -1]  # largest first
    if len(variances) < axes or variances[-1] < SMALLEST_VARIANCE * variances[0] or not variances[0] > 0:
        return _axes_of_covariance(rows.T @ rows, axes)  # recordings that are the same leave directions open
    return variances + NOISE_VARIANCE, (rows.T @ (vectors / np.sqrt(variances))).T


def _axes_of_covariance(covariance: np.ndarray, axes: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the largest eigenvalues [axes] and eigenvectors [axes, P] of a covariance [P, P], which is changed."""
    from scipy.sparse.linalg import LinearOperator, eigsh
    from tqdm import tqdm

    np.fill_diagonal(covariance, covariance.diagonal() + NOISE_VARIANCE)
    size = len(covariance)
    with tqdm(desc="principal axes", unit="product", delay=BAR_SECONDS, disable=None) as bar:

        def product(x: np.ndarray) -> np.ndarray:
            bar.update()
            return covariance @ x.reshape(size, 1)

        counted = LinearOperator(covariance.shape, matvec=product, dtype=covariance.dtype)
        # v0 is fixed so that the same recordings give the same axes; by default eigsh draws it at random
        variances, components = eigsh(counted, k=axes, v0=np.ones(size))
    return variances[::-1], components.T[::-1]  # largest first


def _names() -> list[str]:
    """Return the names of the arrays in a file."""
    names = [one.name for one in fields(Whitening) if one.name != "qualities"]
    return names + [f"{QUALITY}{name}" for name in QualityScale.shapes()]


def _array(whitening: Whitening, name: str) -> Any:
    """Return the array that has this name in a file."""
    if name.startswith(QUALITY):
        return getattr(whitening.qualities, name.removeprefix(QUALITY))
    return getattr(whitening, name)


def _normalised(codes: np.ndarray) -> np.ndarray:
    """Scale codes [B, K] to unit length; zeros become equal parts of all axes."""
    codes = np.where(np.abs(codes).max(axis=1, keepdims=True) > 0, codes, 1.0)
    return codes / norms(codes)


def own_share(recordings: int, axes: int = AXES) -> float:
    """Return the weight of N recordings in a whitening that is mixed with a prior; the rest is the prior's."""
    return 1.0 if recordings >= RECORDINGS_PER_AXIS * axes else recordings / (recordings + PRIOR_RECORDINGS)


def flatten(latents: np.ndarray) -> np.ndarray:
    """Reshape [B, ...] to float64 [B, elements]; raise ValueError if an element is not finite."""
    flat = np.asarray(latents, dtype=np.float64).reshape(len(latents), -1)
    if not np.isfinite(flat).all():
        raise ValueError("the latents have elements that are not finite numbers; make them again")
    return flat


def norms(rows: np.ndarray) -> np.ndarray:
    """Compute the Euclidean norm of each row of [B, elements]: [B, 1]."""
    return np.sqrt(pairwise_sum(rows**2))[:, None]


def _energy_bounds(energy: np.ndarray, share: float) -> tuple[float, float]:
    """Find where along the columns [n] `share` of the energy has passed, and where as much is left: 0 to n.

    A threshold on the columns would jump when noise lifts one column above it; a share of the sum moves only a little.
    """
    passed = np.concatenate(([0.0], np.cumsum(energy)))
    first, last = np.interp([share, 1 - share], passed / passed[-1], np.arange(len(passed)))
    return float(first), float(last)
