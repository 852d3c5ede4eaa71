"""Embedding of a voice: numbers that stay when the same person says the same again, in another room, too.

A small convolutional network turns an aligned spectrogram into a direction. Directions of one person who says the same
again are close, those of other people and other words are not. `training/embedding/` teaches it by contrast, with
recordings said several times and recordings changed as rooms, noises and microphones change them. A linear map then
makes independent standard-normal numbers of the direction, those first that repeat best.

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


@dataclass(frozen=True, eq=False)
class Embedding:
    """The network, and the linear maps of what it gives. K = numbers, D = outputs of the network, Q = qualities."""

    layers: tuple[Layer, ...]
    axes: np.ndarray  # float32 [K, D] discriminant directions, those first that repeat best
    means: np.ndarray  # float32 [L, K] of recordings of each of `qualities.LENGTHS`
    deviations: np.ndarray  # float32 [L, K] standard deviations of them
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
        # no matrix product, because its rounding depends on the machine and on the number of rows
        projected = pairwise_sum(self.axes.astype(np.float64) * self._direction(spectrogram))
        left, share = position_of_length(octaves)
        mean, deviation = (
            table[left] * (1 - share) + table[left + 1] * share
            for table in (self.means.astype(np.float64), self.deviations.astype(np.float64))
        )
        return (projected - mean) / deviation

    def _direction(self, spectrogram: np.ndarray) -> np.ndarray:
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


ARRAYS = ("axes", "means", "deviations", "shares", "again", "again_mean")  # in a file, beside the layers


@functools.cache
def builtin() -> Embedding:
    """Load the embedding that this program ships; there is one for all calibrations.

    Raises:
        ValueError, OSError: as `Embedding.load`.
    """
    return Embedding.load(PATH)
