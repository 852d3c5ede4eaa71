"""Hum of the mains: find its lines, and take them off.

The lines of a hum are at multiples of 50 or 60 Hz, are there all the time, and are as narrow as the length of the
recording allows; a voice that sings such a tone changes it by more than that.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import soxr
from scipy import signal

from .filters import rechunked

MAINS_HZ = (50.0, 60.0)
DEVIATION = 0.004  # share by which the frequency of the mains may differ: grids keep within it
LOUDEST_LINES = 3  # the strongest line is one of the first three; no note that is tuned to 440 Hz lies there
HIGHEST_HZ = 950.0  # of the lines
REDUCED_RATE = 2000  # Hz, in which lines are looked for and fitted
ANALYSED_SECONDS = 60  # the beginning, in which they are looked for
SHORTEST_SECONDS = 1.0  # in shorter recordings a hum cannot be told from a voice
WINDOW_SECONDS, LONG_WINDOW_SECONDS = 0.5, 8.0
SELDOM = 0.1  # share of the time that a hum may seem softer, where a voice cancels it, and that a voice pauses
PURE_SHARE, WITHIN_HZ = 0.8, 8.0  # share of the energy so near that lies in the line itself: a sung tone is wider
BESIDE_HZ, STANDS_OUT = 8.0, 4.0  # in pauses, a line has four times the power of what is 8 Hz beside it

FITTED_SECONDS = 4  # half of the length of the stretches in which a hum is fitted
FITS = 5  # each time, frequency and weights are better
WEIGHED_SECONDS = 0.02  # stretches that have one weight
EDGE_SECONDS = 0.01  # at both ends of a stretch, which resampling spoils


@dataclass(frozen=True)
class Hum:
    """The lines of a hum: multiples of one frequency."""

    fundamental: float  # Hz
    numbers: tuple[int, ...]  # of the multiples

    @property
    def mains(self) -> float:
        """Frequency of the mains in Hz, as it should be."""
        return min(MAINS_HZ, key=lambda hertz: abs(hertz - self.fundamental))


# --- finding ---------------------------------------------------------------------------------------------------------
def find_hum(blocks: Iterable[np.ndarray], sample_rate: int) -> Hum | None:
    """Find the hum of the mains in samples [T] in blocks; None if there is none."""
    samples = _beginning(blocks, sample_rate)
    if len(samples) < SHORTEST_SECONDS * REDUCED_RATE:
        return None
    frequencies, spectrum = _long_spectrum(samples)
    power, fundamental, strongest = max(_strongest(samples, frequencies, spectrum, mains) for mains in MAINS_HZ)
    if not power:
        return None
    numbers = range(1, int(HIGHEST_HZ / fundamental) + 1)
    return Hum(fundamental, tuple(n for n in numbers if n == strongest or _stands_out(samples, n * fundamental)))


def _beginning(blocks: Iterable[np.ndarray], sample_rate: int) -> np.ndarray:
    """Resample the beginning to REDUCED_RATE."""
    held, length = [np.empty(0, np.float32)], 0
    for block in blocks:
        held.append(block)
        length += len(block)
        if length >= ANALYSED_SECONDS * sample_rate:
            break
    return soxr.resample(np.concatenate(held)[: ANALYSED_SECONDS * sample_rate], sample_rate, REDUCED_RATE, "soxr_hq")


def _long_spectrum(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return frequencies in Hz and the mean power of long windows, four bins to each of the windows' own."""
    size = min(len(samples), round(LONG_WINDOW_SECONDS * REDUCED_RATE))
    return signal.welch(samples, REDUCED_RATE, nperseg=size, nfft=4 * size, detrend=False, scaling="spectrum")


def _strongest(
    samples: np.ndarray, frequencies: np.ndarray, power: np.ndarray, mains: float
) -> tuple[float, float, int]:
    """Find the strongest line of one mains: its power, the fundamental in Hz, the number; zeros if there is no hum."""
    resolution = 4 * frequencies[1]  # Hz
    best = (0.0, 0.0, 0)
    for number in range(1, LOUDEST_LINES + 1):
        expected = number * mains
        near = np.abs(frequencies - expected) <= max(expected * DEVIATION, resolution / 2)
        peak = int(np.flatnonzero(near)[power[near].argmax()])
        around = np.abs(frequencies - frequencies[peak])
        wide, narrow = power[around <= WITHIN_HZ + 2 * resolution].sum(), power[around <= 2 * resolution].sum()
        if narrow > best[0] and narrow >= PURE_SHARE * wide and _is_steady(samples, expected):
            best = float(narrow), _between_bins(frequencies, power, peak) / number, number
    return best


def _is_steady(samples: np.ndarray, hertz: float) -> bool:
    """Tell whether there is a tone all the time: it is hardly ever 6 dB softer than usual."""
    power = _powers(samples, hertz)
    return bool(np.quantile(power, SELDOM) > np.median(power) / 4)


def _stands_out(samples: np.ndarray, hertz: float) -> bool:
    """Tell whether there is a tone in the pauses of a voice."""
    below, line, above = (np.quantile(_powers(samples, hertz + x), SELDOM) for x in (-BESIDE_HZ, 0, BESIDE_HZ))
    return bool(line > STANDS_OUT * max(below, above))


def _powers(samples: np.ndarray, hertz: float) -> np.ndarray:
    """Compute the power at a frequency in short windows."""
    size = round(WINDOW_SECONDS * REDUCED_RATE)
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[:: size // 4]
    return np.abs(frames @ (np.hanning(size) * np.exp(-2j * np.pi * hertz / REDUCED_RATE * np.arange(size)))) ** 2


def _between_bins(frequencies: np.ndarray, power: np.ndarray, peak: int) -> float:
    """Interpolate a peak by the parabola through the logarithms of three bins."""
    left, middle, right = np.log(power[peak - 1 : peak + 2] + 1e-30)
    shift = 0.5 * (left - right) / min(left - 2 * middle + right, -1e-9)
    return float(frequencies[peak] + shift * frequencies[1])


# --- taking off ------------------------------------------------------------------------------------------------------
def without_hum(blocks: Iterable[np.ndarray], sample_rate: int, hum: Hum) -> Iterator[np.ndarray]:
    """Take a hum off samples [T] in blocks; the bits do not depend on where blocks end.

    In stretches of eight seconds, half of which overlap, frequency, amplitudes and phases are fitted. What two
    stretches say is cross-faded.
    """
    hop = FITTED_SECONDS * sample_rate
    fade = (np.arange(hop) + 0.5) / hop
    before = np.empty(0, np.float32)
    model: np.ndarray | None = None  # of `before`, from the stretch that ends there
    for chunk in rechunked(blocks, hop):
        if len(before):
            following = _model(np.concatenate([before, chunk]), sample_rate, hum)
            heard = following[:hop] if model is None else following[:hop] * fade + model * (1 - fade)
            yield (before - heard).astype(np.float32)
            model = following[hop:]
        before = chunk
    if len(before):
        yield (before - (_model(before, sample_rate, hum) if model is None else model)).astype(np.float32)


def _model(samples: np.ndarray, sample_rate: int, hum: Hum) -> np.ndarray:
    """Return the hum in samples [T], float64."""
    reduced = soxr.resample(samples, sample_rate, REDUCED_RATE, "soxr_hq")
    middle = len(samples) / sample_rate / 2
    fundamental, amplitudes = _fit(reduced, np.arange(len(reduced)) / REDUCED_RATE - middle, hum)
    times, model = np.arange(len(samples)) / sample_rate - middle, np.zeros(len(samples))
    for number, cosine, sine in zip(hum.numbers, *np.split(amplitudes, 2), strict=True):
        turns = 2 * np.pi * number * fundamental * times
        model += cosine * np.cos(turns) + sine * np.sin(turns)
    return model


def _fit(samples: np.ndarray, times: np.ndarray, hum: Hum) -> tuple[float, np.ndarray]:
    """Fit a hum by least squares, in which a time counts the less the louder the voice is then.

    Returns:
        The frequency in Hz, and the amplitudes of cosines and sines, [2 * lines].
    """
    numbers = np.array(hum.numbers)
    fundamental, weights = hum.fundamental, np.ones(len(times))
    edge = min(round(EDGE_SECONDS * REDUCED_RATE), len(times) // 4)
    for _ in range(FITS):
        weights[:edge] = weights[len(times) - edge :] = 0
        turns = 2 * np.pi * fundamental * times[:, None] * numbers
        waves = np.concatenate([np.cos(turns), np.sin(turns)], axis=1)  # [T, 2 * lines]
        weighted = waves * weights[:, None]
        amplitudes = np.linalg.lstsq(weighted.T @ waves, weighted.T @ samples, rcond=1e-9)[0]
        rest = samples - waves @ amplitudes
        cosines, sines = np.split(amplitudes, 2)
        slope = 2 * np.pi * times * (np.cos(turns) @ (numbers * sines) - np.sin(turns) @ (numbers * cosines))
        if steepness := float(weights @ slope**2):
            step = float(weights @ (slope * rest)) / steepness  # Gauss and Newton's, for the frequency
            most = DEVIATION * hum.fundamental
            fundamental = float(np.clip(fundamental + step, hum.fundamental - most, hum.fundamental + most))
        weights = _weights(rest)
    return fundamental, amplitudes


def _weights(rest: np.ndarray) -> np.ndarray:
    """Return one over the power of what is left, in stretches of 20 ms."""
    size = round(WEIGHED_SECONDS * REDUCED_RATE)
    padded = np.pad(rest, (0, -len(rest) % size), "symmetric")
    power = np.square(padded).reshape(-1, size).mean(axis=1)
    return np.repeat(1 / (power + 1e-6 * power.max() + 1e-20), size)[: len(rest)]
