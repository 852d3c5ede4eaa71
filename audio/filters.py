"""A high-pass filter for sound that comes in blocks.

scipy.signal is imported where it is first used, because that takes longer than making a spectrogram.
"""

import importlib
import threading
from collections.abc import Iterable, Iterator

import numpy as np

ORDER = 12  # 72 dB per octave
BEFORE = 1 << 14  # samples by which a sound is continued in front of its beginning


def load_early() -> None:
    """Import scipy.signal in a thread of its own, so that a filter that is made later need not wait for it."""
    threading.Thread(target=importlib.import_module, args=("scipy.signal",)).start()


class HighPass:
    """A Butterworth high-pass for samples [T] in blocks; the bits do not depend on where blocks end."""

    def __init__(self, sample_rate: int, cutoff: float, order: int = ORDER) -> None:
        """Let through what lies above `cutoff` in Hz, where 3 dB are lost; an octave below it, 6 dB times the order."""
        from scipy import signal

        self._signal = signal
        self._sections = signal.butter(order, cutoff, "highpass", fs=sample_rate, output="sos")
        self._state: np.ndarray | None = None

    def add(self, samples: np.ndarray) -> np.ndarray:
        """Filter the next samples [T], float32; sound before the first ones is taken as constant."""
        if not len(samples):
            return samples
        if self._state is None:
            self._state = self._signal.sosfilt_zi(self._sections) * float(samples[0])
        filtered, self._state = self._signal.sosfilt(self._sections, samples.astype(np.float64), zi=self._state)
        return filtered.astype(np.float32)

    def filtered(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Filter a whole sound.

        In front the sound is continued by itself, turned round in time and sign, or the filter would answer to its
        beginning.
        """
        for number, chunk in enumerate(rechunked(blocks, BEFORE)):
            if number == 0:
                self.add(2 * chunk[0] - chunk[:0:-1])
            yield self.add(chunk)


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
