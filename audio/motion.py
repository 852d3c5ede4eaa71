"""How a recording moves: its loudness and its spectral flux, a hundred times a second.

Loudness is that of ITU-R BS.1770-4, of the mono mix and of 46 ms around each moment: the power after the K-weighting.
Spectral flux is how much the bands of the spectrum rise: of each band the logarithm of its amplitude is compared with
that of the moment before, and what rises is averaged over the bands (Böck, Krebs, Schedl, "Evaluating the online
capabilities of onset detection methods", 2012). The logarithm is log10(1 + 1000 a), so that the noise of a quiet room
counts little.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .features import listen, mel_filterbank
from .recipe import RECIPE, Recipe
from .sound import naming

RATE = 100.0  # measures a second
FRAME = 1024  # samples, 46 ms
BANDS = 40  # of the flux
COMPRESSION = 1000.0  # of amplitudes; a sine of full scale has 1
SILENCE = -70.0  # LKFS, the absolute gate of BS.1770-4: no loudness is given below
AT_ONCE = 256  # frames that are transformed together
K_RATE = 48_000  # Hz, for which BS.1770-4 gives its filters: numerator and denominator of the shelf and the high-pass
K_SHELF = ((1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585))
K_HIGH_PASS = ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621))
K_OFFSET = -0.691  # dB


@dataclass(frozen=True, eq=False)
class Motion:
    """Measures of a recording on a regular grid: element i is of the moment i / rate, in seconds."""

    rate: float  # measures a second
    loudness: np.ndarray  # [T] float32, LKFS, SILENCE and above
    flux: np.ndarray  # [T] float32, 0 and above: rise of log10(1 + 1000 a) since the moment before, mean of the bands


def measure_motion(source: Path | str, recipe: Recipe = RECIPE, channel: int | None = None) -> Motion:
    """Measure how a recording moves. It is read block by block; what disturbs is taken off, as for its latents.

    Args:
        source: a file.
        recipe: that of the latents; only its sample rate counts.
        channel: see `features.extract`.

    Raises:
        AudioError, OSError: see `features.listen`; the message names the file.
    """
    meter: _Meter

    def begin() -> Callable[[np.ndarray], None]:
        nonlocal meter
        meter = _Meter(recipe)
        return meter.add

    with naming(source):
        listen(source, begin, recipe, channel)
    return meter.end()


class _Meter:
    """Measures sound that comes in blocks."""

    def __init__(self, recipe: Recipe) -> None:
        self._rate = recipe.sample_rate
        self._window = np.hanning(FRAME + 1)[:-1]
        self._bands = _triangles(recipe)
        power = 2 / (FRAME * np.square(self._window).sum())  # from the sum over bins to the mean square of samples
        self._weights = power * k_weighting(np.fft.rfftfreq(FRAME, 1 / self._rate))
        self._held = np.zeros(FRAME // 2, np.float32)  # from sample `first` on
        self._first, self._length, self._frames = -(FRAME // 2), 0, 0
        self._before: np.ndarray | None = None  # bands of the last frame
        self._loudness: list[np.ndarray] = []
        self._flux: list[np.ndarray] = []

    def add(self, samples: np.ndarray) -> None:
        """Add the next samples [T]."""
        self._length += len(samples)
        self._append(samples)
        # whole groups of frames, so that the bits do not depend on where blocks end
        while self._begin(self._frames + AT_ONCE - 1) + FRAME <= self._first + len(self._held):
            self._measure(AT_ONCE)

    def end(self) -> Motion:
        """Return the measures of all moments before the end."""
        frames = int(np.ceil(self._length / self._rate * RATE))
        self._append(np.zeros(FRAME, np.float32))
        while self._frames < frames:
            self._measure(min(AT_ONCE, frames - self._frames))
        nothing = [np.zeros(0, np.float32)]
        return Motion(RATE, np.concatenate(self._loudness or nothing), np.concatenate(self._flux or nothing))

    def _append(self, samples: np.ndarray) -> None:
        gone = max(0, self._begin(self._frames) - self._first)
        self._held = np.concatenate([self._held[gone:], samples])
        self._first += gone

    def _begin(self, number: int) -> int:
        """Return the first sample of a frame, whose middle is its moment."""
        return round(number * self._rate / RATE) - FRAME // 2

    def _measure(self, count: int) -> None:
        begins = [self._begin(number) - self._first for number in range(self._frames, self._frames + count)]
        frames = np.stack([self._held[begin : begin + FRAME] for begin in begins])
        power = np.square(np.abs(np.fft.rfft(frames * self._window)))
        with np.errstate(divide="ignore"):
            loudness = K_OFFSET + 10 * np.log10(power @ self._weights)
        bands = np.log10(1 + COMPRESSION * np.sqrt(power @ self._bands))
        before = bands[:1] if self._before is None else self._before
        rises = np.diff(np.concatenate([before, bands]), axis=0)
        self._loudness.append(np.maximum(loudness, SILENCE).astype(np.float32))
        self._flux.append(np.maximum(rises, 0).mean(axis=1).astype(np.float32))
        self._before = bands[-1:]
        self._frames += count


@functools.lru_cache(4)
def _triangles(recipe: Recipe) -> np.ndarray:
    """Compute triangles [FRAME // 2 + 1, BANDS], with which the power of a sine of amplitude 1 is about 1."""
    bank = mel_filterbank(replace(recipe, n_fft=FRAME, n_mels=BANDS)).astype(np.float64)
    amplitude = np.hanning(FRAME + 1)[:-1].sum() / 2  # of a bin
    return (bank / bank.max(axis=1, keepdims=True)).T / amplitude**2


def k_weighting(hertz: np.ndarray) -> np.ndarray:
    """Return what the K-weighting of BS.1770-4 makes of a power of 1, at frequencies below 24 kHz."""
    z = np.exp(-2j * np.pi * hertz / K_RATE)
    answer = np.ones(len(hertz), complex)
    for numerator, denominator in (K_SHELF, K_HIGH_PASS):
        answer *= np.polyval(numerator[::-1], z) / np.polyval(denominator[::-1], z)
    return np.square(np.abs(answer))
