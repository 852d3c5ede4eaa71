"""Embedding of a voice: numbers that stay when the same person says the same again, in another room, too.

A small convolutional network turns an aligned spectrogram into a direction. Directions of one person who says the same
again are close, those of other people and other words are not. `training/embedding/` teaches it by contrast, with
recordings said several times and recordings changed as rooms, noises and microphones change them. The mean direction of
a voice and of the same voice a little higher and lower repeats better than its own. A linear map then makes independent
standard-normal numbers of it, those first that repeat best.

All long recordings of one person are alike: most of what is heard in half a minute is the voice, not the text. What
tells them apart is how they change, so from LONG seconds on the numbers hold more and more of the difference between
the directions of the first and of the second half.

It also says what a named quality of this voice is likely to be when the same is said again: a mean of the measured
quality and of what the numbers tell, learned from repeats. A picture that shows this mean changes less from take to
take than the measured quality does.

Weights and activations are whole numbers, so every sum is exact in float64, in any order: the same voice gives the same
bits on every machine, with fast matrix products.

Sources: van den Oord, Li, Vinyals, "Representation learning with contrastive predictive coding", 2018 (the loss);
Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference", 2018;
Fisher, "The use of multiple measurements in taxonomic problems", 1936 (the linear map: discriminant analysis).
"""

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .orthogonal_map import pairwise_sum
from .qualities import NAMES, position_of_length

PATH = Path(__file__).resolve().parent.parent / "models" / "calibration" / "embedding.npz"
STRIDE = 2  # of each convolution
DEPTH_DB = 50.0  # below the loudest cell: what the network sees
INPUT_STEPS = 1023  # whole numbers that an input of 0 to 1 becomes
LARGEST = 2.0**15  # of activations; what is beyond it is clipped
MOVES = (-1, 0, 1)  # mel bands by which a voice is moved before its directions are averaged
LONG = 1.5, 8.0  # seconds between which the difference of the halves comes in
OF_CHANGE = 0.9  # of the variance of a number of recordings that are longer


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or a product with a matrix, of whole numbers, and a division by a power of 2."""

    weights: np.ndarray  # int16 [out, in, k, k], or [out, in]
    bias: np.ndarray  # int64 [out], before the division
    shift: int  # results are divided by 2 ** shift and rounded

    def __call__(self, x: np.ndarray, last: bool) -> np.ndarray:
        """Apply it to whole numbers, float64 [in, n, n] or [in]; the `last` layer does not rectify and round."""
        weights = self.weights.reshape(len(self.weights), -1).astype(np.float64)
        is_convolution = self.weights.ndim == 4
        columns = _patches(x, self.weights.shape[2]) if is_convolution else x.reshape(-1, 1)
        result = weights @ columns + self.bias[:, None]
        if not last:
            result = np.clip(np.rint(result * 2.0**-self.shift), 0, LARGEST)
        side = round(columns.shape[1] ** 0.5)
        return result.reshape(len(result), side, side) if is_convolution else result[:, 0]


def _patches(x: np.ndarray, kernel: int) -> np.ndarray:
    """Cut [in, n, n] into patches of kernel × kernel, STRIDE apart, zeros around: [in · kernel², (n / STRIDE)²]."""
    edge = kernel // 2
    padded = np.pad(x, ((0, 0), (edge, edge), (edge, edge)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))
    windows = windows[:, ::STRIDE, ::STRIDE]  # [in, n / STRIDE, n / STRIDE, kernel, kernel]
    return windows.transpose(0, 3, 4, 1, 2).reshape(len(x) * kernel**2, -1)


def moved(spectrograms: np.ndarray) -> list[np.ndarray]:
    """Move spectrograms [..., bands, columns] by MOVES; the outermost bands are repeated."""
    bands = np.arange(spectrograms.shape[-2])
    return [spectrograms[..., np.clip(bands - move, 0, len(bands) - 1), :] for move in MOVES]


def halves(spectrograms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stretch either half of the columns of spectrograms [..., bands, columns] to the full width."""
    columns = spectrograms.shape[-1]
    half = columns // 2
    first, second = spectrograms[..., :half], spectrograms[..., half:]
    return stretched(first, 0, half, columns), stretched(second, 0, half, columns)


def stretched(spectrograms: np.ndarray, first: float, last: float, columns: int) -> np.ndarray:
    """Stretch what is from column `first` to `last`, 0 to n, of [..., n] to so many columns by linear interpolation."""
    n = spectrograms.shape[-1]
    position = np.clip(first + (np.arange(columns) + 0.5) * ((last - first) / columns) - 0.5, 0, n - 1)
    left = np.minimum(position.astype(int), n - 2)
    weight = position - left
    return spectrograms[..., left] * (1 - weight) + spectrograms[..., left + 1] * weight


def share_of_change(octaves: np.ndarray) -> np.ndarray:
    """Return the part of the variance of numbers that the difference of halves has, by octaves of seconds [B]."""
    return np.interp(np.nan_to_num(octaves), np.log2(LONG), (0, OF_CHANGE))


@dataclass(frozen=True, eq=False)
class Embedding:
    """The network, and the linear maps of what it gives. K = numbers, D = outputs of the network, Q = qualities."""

    layers: tuple[Layer, ...]
    axes: np.ndarray  # float32 [K, D] discriminant directions, those first that repeat best
    means: np.ndarray  # float32 [L, K] of recordings of each of `qualities.LENGTHS`
    deviations: np.ndarray  # float32 [L, K] standard deviations of them
    change: np.ndarray  # float32 [2, K] mean and standard deviation of the difference of halves, of long recordings
    shares: np.ndarray  # float32 [K] of each number in the variance of all; they sum to 1
    again: np.ndarray  # float32 [Q, Q + K] from qualities and numbers to the qualities of another take
    again_mean: np.ndarray  # float32 [Q]

    @property
    def size(self) -> int:
        """Rows and columns of the spectrograms that the network was taught with: 64."""
        convolutions = [layer for layer in self.layers if layer.weights.ndim == 4]
        cells = self.layers[len(convolutions)].weights.shape[1] // len(convolutions[-1].bias)
        return STRIDE ** len(convolutions) * math.isqrt(cells)

    def numbers(self, stretched_db: np.ndarray, octaves: np.ndarray) -> np.ndarray:
        """Embed spectrograms as independent numbers, float64 [B, K], from N(0, 1) over recordings of all kinds.

        Args:
            stretched_db: spectrograms [B, size, size], dB below the loudest cell, aligned and without noise.
            octaves: of seconds, how long each recording is, [B]; nan: not known.
        """
        return np.stack([self._numbers(*one) for one in zip(stretched_db, octaves, strict=True)])

    def _numbers(self, spectrogram: np.ndarray, octaves: float) -> np.ndarray:
        projected = self._projected(self._direction(spectrogram))
        left, share = position_of_length(octaves)
        mean, deviation = (
            table[left] * (1 - share) + table[left + 1] * share
            for table in (self.means.astype(np.float64), self.deviations.astype(np.float64))
        )
        return (projected - mean) / deviation

    def told_apart(self, numbers: np.ndarray, stretched_db: np.ndarray, octaves: np.ndarray) -> np.ndarray:
        """Let `numbers` [B, K] of long recordings tell how they change: float64 [B, K], from N(0, 1) as before.

        Args:
            numbers: of the recordings.
            stretched_db: their spectrograms, as in `numbers`.
            octaves: of seconds, as in `numbers`.
        """
        told = numbers.copy()
        mean, deviation = self.change.astype(np.float64)
        shares = share_of_change(octaves)
        for row in np.flatnonzero(shares):
            first, second = (self._direction(half) for half in halves(stretched_db[row]))
            change = (self._projected(first - second) - mean) / deviation
            told[row] = np.sqrt(1 - shares[row]) * numbers[row] + np.sqrt(shares[row]) * change
        return told

    def _projected(self, direction: np.ndarray) -> np.ndarray:
        """Project a direction, or a difference of two, [D] onto the axes: [K]."""
        # no matrix product, because its rounding depends on the machine and on the number of rows
        return pairwise_sum(self.axes.astype(np.float64) * direction)

    def _direction(self, spectrogram: np.ndarray) -> np.ndarray:
        """Average what the network gives for a spectrogram and for `moved` ones: float64 [D] of unit length."""
        mean = np.sum([self._network(one) for one in moved(spectrogram)], axis=0)
        return mean / np.sqrt(pairwise_sum(mean**2))

    def _network(self, spectrogram: np.ndarray) -> np.ndarray:
        """Run the network: float64 [D] of unit length."""
        level = np.clip(spectrogram / DEPTH_DB + 1, 0, 1)
        # the second channel lacks the mean over time, so that it lacks most of the microphone
        x = np.rint(INPUT_STEPS * np.stack([level, level - level.mean(axis=1, keepdims=True)]))
        for layer in self.layers[:-1]:
            x = layer(x, last=False)
        direction = self.layers[-1](x, last=True)
        return direction / np.sqrt(pairwise_sum(direction**2))

    def said_again(self, named: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Predict the qualities of another take, [B, Q], of those of this one, [B, Q], and its numbers [B, K].

        All are from N(0, 1).
        """
        again = self.again.astype(np.float64)
        rows = np.concatenate((named, numbers), axis=1)
        return np.stack([pairwise_sum(again * row) for row in rows]) - self.again_mean

    # --- files -------------------------------------------------------------------------------------------------------
    def save(self, path: Path) -> None:
        """Write a .npz without pickled objects.

        Raises:
            OSError: the file cannot be written.
        """
        arrays = {name: getattr(self, name) for name in ARRAYS}
        for number, layer in enumerate(self.layers):
            arrays |= {f"weights_{number}": layer.weights, f"bias_{number}": layer.bias}
        with path.open("wb") as stream:
            np.savez_compressed(stream, shifts=np.array([layer.shift for layer in self.layers]), **arrays)

    @classmethod
    def load(cls, path: Path) -> "Embedding":
        """Read a file that `save` has written.

        Raises:
            ValueError: the file is broken, or something else.
            OSError: it does not exist or cannot be read.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                shifts = archive["shifts"].tolist()
                layers = [Layer(archive[f"weights_{n}"], archive[f"bias_{n}"], shift) for n, shift in enumerate(shifts)]
                found = cls(tuple(layers), **{name: archive[name] for name in ARRAYS})
            if found.again.shape != (len(NAMES), len(NAMES) + len(found.axes)):
                raise ValueError(f"it predicts qualities by {found.again.shape}")
        except OSError:
            raise
        except Exception as error:  # a damaged file makes zipfile and NumPy raise nearly any error
            raise ValueError(
                f"{path} is not an embedding ({' '.join(str(error).split())}); install it again"
            ) from error
        return found


ARRAYS = ("axes", "means", "deviations", "change", "shares", "again", "again_mean")  # in a file, beside the layers


@functools.cache
def builtin() -> Embedding:
    """Load the embedding that this program ships; there is one for all calibrations.

    Raises:
        ValueError, OSError: as `Embedding.load`.
    """
    return Embedding.load(PATH)
