"""A high-pass filter for sound that comes in blocks.

scipy has one, but importing scipy.signal takes longer than making a spectrogram.

Sources: Bristow-Johnson, Cookbook formulae for audio EQ biquad filter coefficients.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np

ORDER = 12  # of the high-pass: 72 dB per octave
BLOCK = 64  # samples that are filtered by one product of matrices
CHUNK = 1 << 14  # samples; chunks of one size give the same bits wherever blocks end


class HighPass:
    """A Butterworth high-pass for samples [T] in blocks; sound before the first block is taken as constant."""

    def __init__(self, sample_rate: int, cutoff: float) -> None:
        """Let through what lies above `cutoff` in Hz, where 3 dB are lost; half of it is 72 dB down."""
        angles = [math.pi * (2 * number + 1) / (2 * ORDER) for number in range(ORDER // 2)]
        self._sections = [_Section(cutoff / sample_rate, 1 / (2 * math.cos(angle))) for angle in angles]

    def add(self, samples: np.ndarray) -> np.ndarray:
        """Filter the next samples [T]; returns float32 [T]."""
        sound = samples.astype(np.float64)
        for section in self._sections:
            sound = section.add(sound)
        return sound.astype(np.float32)

    def filtered(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Filter a whole sound; the bits do not depend on where blocks end.

        In front the sound is continued by itself, turned round in time and sign, or the filter would answer to its
        beginning.
        """
        for number, chunk in enumerate(rechunked(blocks, CHUNK)):
            if number == 0:
                self.add(2 * chunk[0] - chunk[:0:-1])
            yield self.add(chunk)


class _Section:
    """Two poles and two zeros of a high-pass: y[n] = f[n] - a1 y[n-1] - a2 y[n-2], f from three input samples."""

    def __init__(self, frequency: float, quality: float) -> None:
        turn = 2 * math.pi * frequency
        alpha, cosine = math.sin(turn) / (2 * quality), math.cos(turn)
        self._gain = (1 + cosine) / 2 / (1 + alpha)
        self._a1, self._a2 = -2 * cosine / (1 + alpha), (1 - alpha) / (1 + alpha)
        answer = self._recursion(0.0, 0.0, [1.0] + [0.0] * (BLOCK - 1))
        steps = np.arange(BLOCK)
        self._impulse = np.tril(np.array(answer)[np.abs(steps[:, None] - steps)])  # [n, m]: y[n] from f[m]
        none = [0.0] * BLOCK
        self._free = np.array([self._recursion(1.0, 0.0, none), self._recursion(0.0, 1.0, none)])  # from y[-1], y[-2]
        self._inputs: np.ndarray | None = None  # the last two
        self._outputs = (0.0, 0.0)  # the last one, and the one before

    def _recursion(self, last: float, before: float, inputs: list[float]) -> list[float]:
        outputs = []
        for value in inputs:
            last, before = value - self._a1 * last - self._a2 * before, last
            outputs.append(last)
        return outputs

    def add(self, samples: np.ndarray) -> np.ndarray:
        if not len(samples):
            return samples
        if self._inputs is None:
            self._inputs = np.repeat(samples[:1], 2)
        joined = np.concatenate([self._inputs, samples])
        self._inputs = joined[-2:]
        forced = self._gain * (joined[2:] - 2 * joined[1:-1] + joined[:-2])
        length = len(forced)
        blocks = np.concatenate([forced, np.zeros(-length % BLOCK)]).reshape(-1, BLOCK)
        result = blocks @ self._impulse.T
        last, before = self._outputs
        states, free = np.empty((len(blocks), 2)), self._free
        ends = result[:, -2:].tolist()
        (b1, a1), (b2, a2) = free[0, -2:].tolist(), free[1, -2:].tolist()
        for number, (end_before, end) in enumerate(ends):
            states[number] = last, before
            last, before = end + a1 * last + a2 * before, end_before + b1 * last + b2 * before
        result = (result + states @ free).reshape(-1)[:length]
        self._outputs = (float(result[-1]), float(result[-2]) if length > 1 else self._outputs[0])
        return result


def rechunked(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Yield the same samples [T] in chunks of one size; the last one may be shorter."""
    held: list[np.ndarray] = []
    length = 0
    for block in blocks:
        held.append(block)
        length += len(block)
        if length >= size:
            joined = np.concatenate(held)
            whole = length // size * size
            yield from joined[:whole].reshape(-1, size)
            held, length = [joined[whole:]], length - whole
    if length:
        yield np.concatenate(held)
