"""Choose the channels of a recording that are averaged to mono: all of them, unless the average loses the voice.

Opposite channels cancel each other, and one voice on an interface of many inputs is averaged with the silence of the
others. Energies are compared in the range of voices: samples are averaged down to about 8 kHz, and the differences of
neighbours are taken, in which an offset and a rumble hardly count.
"""

import functools
from dataclasses import dataclass

import numpy as np

REDUCED_RATE = 8000  # Hz, about
STRETCH, EACH = 64, 8  # of 64 ms the first 8 are looked at, which tells as much in less time
LOST = 0.1  # share of the loudest channel's energy; an average with less has lost the voice
HEARD = 0.01  # share of the loudest channel's energy from which a channel has sound


@dataclass(frozen=True)
class Choice:
    """The channels that are averaged."""

    used: tuple[int, ...] = ()  # from 0; all if empty
    note: str = ""  # why not all, "" if all are used or one was asked for

    def mono(self, block: np.ndarray) -> np.ndarray:
        """Average the chosen channels, [T, channels] -> [T]."""
        if len(self.used) == 1:
            return block[:, self.used[0]]
        return average(block[:, list(self.used)] if self.used else block)


def average(block: np.ndarray) -> np.ndarray:
    """Average all channels, [T, channels] -> [T], by sums of columns: np.mean over a short axis is ten times slower."""
    if block.shape[1] == 1:
        return block[:, 0]
    mono = block[:, 0].copy()
    for channel in block.T[1:]:
        mono += channel
    return mono / np.float32(block.shape[1])


class ChannelLevels:
    """Energies of the channels of a recording, and of any average of them, measured while it is read."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        self.channels = channels
        self._step = max(1, sample_rate // REDUCED_RATE)
        self._products = np.zeros((channels, channels))  # sums over time of the product of two channels
        self._rest: np.ndarray = np.empty((0, channels), np.float32)

    def add(self, block: np.ndarray) -> None:
        """Add samples [T, channels], float32."""
        samples = np.concatenate([self._rest, block]) if len(self._rest) else block
        size = STRETCH * self._step
        whole = len(samples) // (EACH * size) * EACH * size
        self._rest = samples[whole:].copy()
        stretches = samples[:whole].reshape(-1, EACH * size, self.channels)[:, :size]
        with np.errstate(over="ignore", invalid="ignore"):  # samples far beyond full scale are refused elsewhere
            reduced = stretches.reshape(-1, self._step * self.channels) @ _average(self._step, self.channels)
            differences = np.diff(reduced.reshape(-1, STRETCH, self.channels), axis=1).reshape(-1, self.channels)
            self._products += differences.T @ differences

    def choice(self) -> Choice:
        """Choose: all channels, or those with sound where all together lose it, or the loudest where those do, too."""
        energy = np.diagonal(self._products)
        loudest = int(energy.argmax())
        if not self._mixed(np.arange(self.channels)) < LOST * energy[loudest]:  # also if they are not finite
            return Choice()
        sounding = np.flatnonzero(energy >= HEARD * energy[loudest])
        if self._mixed(sounding) < LOST * energy[loudest]:
            note = f"channel {loudest + 1} of {self.channels} is used, because the channels cancel each other"
            return Choice((loudest,), note)
        numbers = ", ".join(str(number + 1) for number in sounding)
        used = f"channel {numbers} of {self.channels} is" if len(sounding) == 1 else f"channels {numbers} are"
        note = f"{used} used, because the others are silent"
        return Choice(tuple(map(int, sounding)), note)

    def _mixed(self, used: np.ndarray) -> float:
        """Energy of the average of some channels."""
        return float(self._products[np.ix_(used, used)].sum()) / len(used) ** 2


@functools.lru_cache(8)
def _average(step: int, channels: int) -> np.ndarray:
    """Make the matrix that averages `step` samples of each channel; a sum over an axis takes five times as long."""
    return np.tile(np.eye(channels, dtype=np.float32) / np.float32(step), (step, 1))
