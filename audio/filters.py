"""A high-pass filter for sound that comes in blocks.

scipy has one, but importing scipy.signal takes longer than making a spectrogram.

Sources: Bristow-Johnson, Cookbook formulae for audio EQ biquad filter coefficients.
"""

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

ORDER = 12  # 72 dB per octave
BLOCK = 64  # samples that are filtered by one product of matrices
CHUNK = 1 << 14  # samples; chunks of one size give the same bits wherever blocks end


class HighPass:
    """A Butterworth high-pass for samples [T] in blocks; sound before the first block is taken as constant."""

    def __init__(self, sample_rate: int, cutoff: float, order: int = ORDER) -> None:
        """Let through what lies above `cutoff` in Hz, where 3 dB are lost; an octave below it, 6 dB times the order."""
        self._response = _response(cutoff / sample_rate, order)
        self._state: np.ndarray | None = None

    def add(self, samples: np.ndarray) -> np.ndarray:
        """Filter the next samples [T]; returns float32 [T]."""
        if not len(samples):
            return samples
        response = self._response
        state = response.constant * float(samples[0]) if self._state is None else self._state
        whole = len(samples) // BLOCK
        blocks = np.concatenate([samples, np.zeros(-len(samples) % BLOCK, samples.dtype)]).reshape(-1, BLOCK)
        blocks = blocks.astype(np.float64)
        states, pushes = np.empty((len(blocks), len(state))), blocks @ response.push
        for number in range(len(blocks)):
            states[number] = state
            if number < whole:
                state = state @ response.step[BLOCK] + pushes[number]
        if left := len(samples) % BLOCK:
            state = state @ response.step[left] + blocks[-1, :left] @ response.push[BLOCK - left :]
        self._state = state
        filtered = blocks @ response.forced + states @ response.free
        return filtered.reshape(-1)[: len(samples)].astype(np.float32)

    def filtered(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Filter a whole sound; the bits do not depend on where blocks end.

        In front the sound is continued by itself, turned round in time and sign, or the filter would answer to its
        beginning.
        """
        for number, chunk in enumerate(rechunked(blocks, CHUNK)):
            if number == 0:
                self.add(2 * chunk[0] - chunk[:0:-1])
            yield self.add(chunk)


@dataclass(frozen=True)
class _Response:
    """Answer of a filter over one block, as matrices; a state has two numbers for each section."""

    forced: np.ndarray  # [BLOCK, BLOCK]: from input to output
    free: np.ndarray  # [states, BLOCK]: from the state before to output
    step: np.ndarray  # [BLOCK + 1, states, states]: from the state before to that after so many samples
    push: np.ndarray  # [BLOCK, states]: from input to the state after the block
    constant: np.ndarray  # [states]: the state after an endless input of 1


@functools.cache
def _response(frequency: float, order: int) -> _Response:
    """Compute the matrices by filtering unit states, and an impulse; `frequency` is in parts of the sample rate."""
    sections = [_section(frequency, math.pi * (2 * number + 1) / (2 * order)) for number in range(order // 2)]
    state = np.zeros((order + 1, order))  # of each case: the unit states, and the impulse
    state[:order] = np.eye(order)
    outputs, states = np.empty((BLOCK, order + 1)), [state]
    for time in range(BLOCK):
        sound = np.zeros(order + 1)
        sound[order] = time == 0
        state = state.copy()
        for number, (gain, a1, a2) in enumerate(sections):  # in transposed direct form II
            first, second = state[:, 2 * number], state[:, 2 * number + 1]
            given = gain * sound + first
            state[:, 2 * number], state[:, 2 * number + 1] = (
                -2 * gain * sound - a1 * given + second, gain * sound - a2 * given,
            )  # fmt: skip
            sound = given
        outputs[time] = sound
        states.append(state)
    after = np.stack(states)  # [BLOCK + 1, cases, states]
    lag = np.arange(BLOCK)[None, :] - np.arange(BLOCK)[:, None]
    gain = sections[0][0]
    return _Response(
        forced=np.where(lag >= 0, outputs[np.abs(lag), order], 0.0),
        free=outputs[:, :order].T.copy(),
        step=after[:, :order],
        push=after[:0:-1, order].copy(),
        constant=np.array([-gain, gain] + [0.0] * (order - 2)),
    )


def _section(frequency: float, angle: float) -> tuple[float, float, float]:
    """Return gain, a1 and a2 of two poles: y[n] = gain (x[n] - 2 x[n-1] + x[n-2]) - a1 y[n-1] - a2 y[n-2]."""
    cosine, alpha = math.cos(2 * math.pi * frequency), math.sin(2 * math.pi * frequency) * math.cos(angle)
    return (1 + cosine) / 2 / (1 + alpha), -2 * cosine / (1 + alpha), (1 - alpha) / (1 + alpha)


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
