"""Spread a short code over a latent of any shape by one fixed orthogonal map, so that the result looks like noise.

An orthogonal map keeps lengths and angles: two codes are as far apart after it as before. The map is never stored as a
matrix. It consists of sign flips, permutations, Walsh-Hadamard transforms and reflections, which use additions and
multiplications in one fixed order, so that the same code gives the same bits on every machine.

A latent of N elements takes N log N operations and memory for a few copies of it.

Sources: Ailon, Chazelle, "The fast Johnson-Lindenstrauss transform", 2009 (sign flips and Hadamard transforms as a fast
random rotation); Householder, "Unitary triangularization of a nonsymmetric matrix", 1958 (reflections).
"""

import functools
import math
from collections.abc import Sequence
from types import EllipsisType

import numpy as np

SPREAD_SEED = 4096  # never change: the same voice would give another image
SQUARES = 4  # squares along each side of a channel; their means are the lowest frequencies of x_T
LEAST_ROWS = 4  # of a square; the means of smaller ones would hold more of the variance than the low frequencies do
OVERLAP = 16  # two windows may overlap by 1/16 of their length
MOST_NAMED = 0.5  # of the squared length that named numbers may have, in very small latents
LEADING = 64  # axes that set those means, one for each square of four channels
LARGEST_KEPT = 1 << 20  # elements, 50 MB: what is drawn for larger latents, of videos, is not kept in memory
NEAR = 256  # elements of a row within which pairs are near neighbours, for speed alone


def with_named(
    named: np.ndarray, codes: np.ndarray, variances: np.ndarray, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Put numbers of their own meaning before codes of unit length, so that `spread` gives them squares of their own.

    Each of the `named` numbers, [B, Q] from N(0, 1), becomes the means of the squares that it sets, and nothing else of
    the latent depends on it. The codes [B, K] get the length that is left.

    Returns:
        Codes of unit length [B, Q + K], and the part of the variance of each, [Q + K].

    Raises:
        ValueError: as `spread`.
    """
    elements = math.prod(shape)
    channels, height, width = shape
    squares = channels * len(_bands(height)) * len(_bands(width))
    named = named[:, : max(0, min(squares, capacity(shape) - 1))]  # small latents hold the first ones
    axes = named.shape[1] + codes.shape[1]
    if axes > capacity(shape):
        codes = codes[:, : max(1, capacity(shape) - named.shape[1])]
        codes, variances = codes / np.sqrt(pairwise_sum(codes**2))[:, None], variances[: codes.shape[1]]
        axes = named.shape[1] + codes.shape[1]
    share = np.bincount(_turns(shape, axes), minlength=axes)[: named.shape[1]] / elements
    leading = named * np.sqrt(share)
    length = (leading**2).sum(axis=1, keepdims=True)
    leading *= np.sqrt(np.minimum(1.0, MOST_NAMED / np.maximum(length, 1e-12)))
    rest = np.sqrt(1 - (leading**2).sum(axis=1, keepdims=True)) * codes
    parts = (share, max(1 - share.sum(), MOST_NAMED) * variances / pairwise_sum(variances))
    return np.concatenate((leading, rest), axis=1), np.concatenate(parts)


def leading_numbers(means: np.ndarray) -> np.ndarray:
    """Undo what `spread` does to the leading numbers of 4 x 4 squares: [B, C, 16] means, row by row -> [B, C, 16].

    The means are scaled to N(0, 1). The last channel holds the first numbers. The prior of the built-in model does the
    same (ldm/modules/low_frequencies.py).
    """
    return hadamard(means.reshape(-1, means.shape[2])).reshape(means.shape)


def named_part(noise: np.ndarray, named: int) -> np.ndarray:
    """Return the part of noise [C, H, W] that its first `named` numbers set, float64 [C, H, W].

    They are those of `with_named`, if it was given LEADING axes or more.
    """
    squares = _squares(*noise.shape[1:])
    roots = np.sqrt([noise[0][square].size for square in squares])
    means = np.stack([noise[square].mean(axis=(1, 2), dtype=np.float64) for square in squares], axis=1)
    # the last channel has the first numbers, see `spread`
    is_named = (_turns(noise.shape, LEADING) < named).reshape(means.shape)[::-1]
    means = hadamard(np.where(is_named, hadamard(means * roots), 0)) / roots
    part = np.empty(noise.shape)
    for square, mean in zip(squares, means.T, strict=True):
        part[square] = mean[:, None, None]
    return part


def lowest_frequencies(noise: np.ndarray) -> np.ndarray:
    """Replace each square of noise [B, C, H, W] by its mean: float64 [B, C, H, W]."""
    low = np.empty(noise.shape, dtype=np.float64)
    for square in _squares(*noise.shape[2:]):
        low[square] = noise[square].mean(axis=(2, 3), keepdims=True, dtype=np.float64)
    return low


def _squares(height: int, width: int) -> list[tuple[EllipsisType, slice, slice]]:
    """Return the index of each square of latents [..., height, width], row by row."""
    return [(..., slice(*row), slice(*column)) for row in _bands(height) for column in _bands(width)]


def _turns(shape: Sequence[int], axes: int) -> np.ndarray:
    """Return which axis sets each square, [squares]: the leading ones, which take turns if there are fewer."""
    channels, height, width = shape
    return np.arange(channels * len(_bands(height)) * len(_bands(width))) % min(axes, LEADING)


def spread(codes: np.ndarray, variances: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Map codes [B, K] to float64 [B, C, H, W] of any `shape` (C, H, W); lengths and angles are kept.

    Each channel is cut into 4 x 4 squares (fewer where it is small). Each of the LEADING axes sets the mean of one
    square, with the variance that this mean has in Gaussian noise; what is left of the axis is spread over the rest of
    the latent. The last channel gets the first axes. Within a channel, every square depends on all of the channel's
    axes. If there are more squares than such axes, the axes take turns.

    Args:
        codes: [B, K], K axes.
        variances: [K], the part of the codes' variance that each axis has; they sum to 1.
        shape: channels, rows and columns, 1 or more each.

    Raises:
        ValueError: the shape has too few elements for K axes.
    """
    channels, height, width = shape
    rows, columns = _bands(height), _bands(width)
    per_channel = len(rows) * len(columns)
    squares, elements = channels * per_channel, channels * height * width
    axes = codes.shape[1]
    if axes > capacity(shape):
        raise ValueError(
            f"latents of {list(shape)} hold at most {capacity(shape)} axes, not {axes}; use larger latents"
        )

    # the means: coefficients of the constant basis vector of each square, of unit variance in noise
    turns = _turns(shape, axes)
    count = np.bincount(turns, minlength=axes)  # squares whose mean an axis sets
    share = np.minimum(1.0, count / (elements * variances))  # of the axis' variance, for those means
    means = (codes * np.sqrt(share / np.maximum(count, 1)))[:, turns].reshape(len(codes), channels, per_channel)
    # without signs, channels that have the same axes would be the same
    means = hadamard((means * _signs(squares).reshape(channels, -1))[:, ::-1].reshape(-1, per_channel))
    means = means.reshape(len(codes) * channels, len(rows), len(columns))
    # the rest: coefficients of all other basis vectors
    rest = scatter(codes * np.sqrt(1 - share), elements - squares).reshape(len(codes) * channels, -1)

    noise = np.empty((len(codes) * channels, height, width))
    used = 0
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(columns):
            cells = (bottom - top) * (right - left)
            square = _fill(means[:, i, j], rest[:, used : used + cells - 1])
            noise[:, top:bottom, left:right] = square.reshape(-1, bottom - top, right - left)
            used += cells - 1
    return noise.reshape(len(codes), *shape)


def capacity(shape: Sequence[int]) -> int:
    """Return how many axes a latent of `shape` (C, H, W) can hold."""
    channels, height, width = shape
    return channels * (height * width - len(_bands(height)) * len(_bands(width)))


def _bands(size: int) -> list[tuple[int, int]]:
    """Return begin and end of nearly equal parts of `size` rows: SQUARES, or fewer of at least LEAST_ROWS each."""
    most = max(1, min(SQUARES, size // LEAST_ROWS))
    parts = 1 << (most.bit_length() - 1)  # a power of 2, so that a Hadamard transform can mix the squares
    return [(size * part // parts, size * (part + 1) // parts) for part in range(parts)]


def _fill(means: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Make squares of n cells, float64 [B, n], from their means times sqrt(n), [B], and from n - 1 numbers [B, n - 1].

    The map is orthogonal: the first of its n basis vectors is constant. If n is a power of 2, they are Hadamard's.
    """
    x = np.concatenate((means[:, None], rest), axis=1)
    cells = x.shape[1]
    if cells & (cells - 1) == 0:
        return hadamard(x)
    # the reflection that swaps the first unit vector and the constant one, whose elements are `level`
    level = 1 / math.sqrt(cells)
    total = pairwise_sum(x)[:, None]
    filled = x + level * (x[:, :1] - level * total) / (1 - level)
    filled[:, :1] = level * total
    return filled


def scatter(codes: np.ndarray, size: int) -> np.ndarray:
    """Map [B, K] to float64 [B, size]; lengths and angles are kept.

    The codes are padded with zeros. Then random signs, Hadamard transforms and a permutation are applied in two or
    three rounds: after one round, a code with few axes still repeats itself all over the latent.
    """
    scattered = np.zeros((len(codes), size))
    scattered[:, : codes.shape[1]] = codes
    parts = _parts(size)
    for signs, order in _scattering(size):
        scattered *= signs
        for part in parts:
            scattered[:, part] = hadamard(scattered[:, part])
        scattered = scattered[:, order]
    return scattered


def _parts(size: int) -> list[slice]:
    """Choose the parts of `size` elements that are transformed one after the other; their lengths are powers of 2."""
    window = 1 << (size.bit_length() - 1)
    if 2 * window - size <= window // OVERLAP:
        return [slice(0, window), slice(size - window, size)]
    # where two windows overlap more, the second transform would undo the first: the binary digits of `size` instead
    lengths = [1 << digit for digit in reversed(range(size.bit_length())) if size >> digit & 1]
    return [slice(end - length, end) for length, end in zip(lengths, np.cumsum(lengths).tolist(), strict=True)]


def _scattering(size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the signs and the permutation of each round of `scatter`."""
    return _kept_scattering(size) if size <= LARGEST_KEPT else _draw_scattering(size)


# RandomState's stream is frozen: no version of NumPy will change it
def _draw_scattering(size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    covered = sum(part.stop - part.start for part in _parts(size))
    rounds = 2 if covered > size else 3  # disjoint parts, of which some are small, need a round more
    draw = np.random.RandomState(SPREAD_SEED).random_sample
    return [(np.where(draw(size) < 0.5, -1.0, 1.0), np.argsort(draw(size), kind="stable")) for _ in range(rounds)]


_kept_scattering = functools.lru_cache(maxsize=4)(_draw_scattering)


@functools.lru_cache(maxsize=4)
def _signs(count: int) -> np.ndarray:
    """Draw a sign for each square, in the order of their axes; 1 where an axis has its first turn."""
    signs = np.where(np.random.RandomState(SPREAD_SEED).random_sample(count) < 0.5, -1.0, 1.0)
    signs[:LEADING] = 1
    return signs


def hadamard(rows: np.ndarray) -> np.ndarray:
    """Compute the orthonormal fast Walsh-Hadamard transform of each row, [B, size] with size a power of 2.

    It is its own inverse. It uses only additions and one division, in one order: the same bits on every machine.
    """
    count, size = rows.shape
    near = min(size, NEAR)
    # first the steps that pair near neighbours, along the first axis of [near, ...], where NumPy adds long runs
    columns = _butterflies(np.ascontiguousarray(rows.reshape(-1, near).T)[None])
    far = _butterflies(np.ascontiguousarray(columns[0].T).reshape(count, -1, near))
    return far.reshape(count, size) / math.sqrt(size)


def _butterflies(x: np.ndarray) -> np.ndarray:
    """Compute the sums and differences of a Walsh-Hadamard transform along the middle axis of a new array [B, n, m]."""
    _, size, length = x.shape
    other = np.empty_like(x)
    half = 1
    while half < size:
        pairs, made = (array.reshape(-1, 2, half * length) for array in (x, other))
        np.add(pairs[:, 0], pairs[:, 1], out=made[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=made[:, 1])
        x, other = other, x
        half *= 2
    return x


def pairwise_sum(x: np.ndarray) -> np.ndarray:
    """Sum over the last axis by halves: additions alone, in one order, so the same bits on every machine."""
    while (size := x.shape[-1]) > 1:
        half = size // 2
        folded = x[..., :half] + x[..., half : 2 * half]
        x = np.concatenate((folded, x[..., 2 * half :]), axis=-1) if size % 2 else folded
    return x[..., 0]
