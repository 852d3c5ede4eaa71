"""Pitch and periodicity of the windows of a spectrogram, from their power spectra.

The inverse Fourier transform of a power spectrum is the autocorrelation of its window. Its highest peak beside lag 0
gives the period. The height of this peak says how periodic the sound is: near 1 for a sung vowel, near 0 for noise.
Division by the autocorrelation of the Hann window undoes what the window does. Only frequencies up to 1 kHz are used,
where the harmonics of a voice are strongest and noise is weakest.

In a vowel such as that of "three", one harmonic near a resonance of the mouth may be much stronger than all others, and
the highest peak would be at its period. So the pitch is found in the same way, but from magnitudes in place of power.

Sources: Boersma, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a
sampled sound", Proceedings of the Institute of Phonetic Sciences 17, 1993 (equation 9); Tolonen, Karjalainen, "A
computationally efficient multipitch analysis model", 2000 (compressed spectra).
"""

import functools

import numpy as np

from .recipe import Recipe

LOWEST_HZ, HIGHEST_HZ = 60.0, 420.0  # pitches of speech, from a deep voice to a child
BAND_HZ = (64.0, 1000.0)  # what is analysed: below it there is rumble and hum
LAG_STEP = 3  # samples at 22,050 Hz between two lags; peaks are interpolated
NEARLY_BEST = 0.88  # the shortest lag whose peak is this high counts, because twice a period is a period, too
LEAST_PERIODIC = 0.4  # windows that are less periodic say nothing about the pitch
HALF_RANGE = 0.45  # octaves about the median


@functools.cache
def analysed_bins(recipe: Recipe) -> slice:
    """Return which bins of a power spectrum, counted from 0 Hz, are analysed."""
    width = recipe.sample_rate / recipe.n_fft
    return slice(int(np.ceil(BAND_HZ[0] / width)), int(BAND_HZ[1] / width) + 1)


@functools.cache
def _lags(recipe: Recipe) -> np.ndarray:
    """Return the lags in samples, [L]."""
    return np.arange(int(recipe.sample_rate / HIGHEST_HZ), int(recipe.sample_rate / LOWEST_HZ) + 2, LAG_STEP)


@functools.cache
def _transform(recipe: Recipe) -> np.ndarray:
    """Compute the matrix from power in the analysed bins to the autocorrelation at each lag, float32 [bins, L].

    It includes the division by the autocorrelation of the Hann window.
    """
    bins = np.arange(recipe.n_fft)[analysed_bins(recipe)]
    share = _lags(recipe) / recipe.n_fft
    turns = 2 * np.pi * share
    hann = (1 - share) * (2 / 3 + np.cos(turns) / 3) + np.sin(turns) / (2 * np.pi)
    return (np.cos(bins[:, None] * turns) / hann).astype(np.float32)


def find_pitch(power: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Find pitch and periodicity of windows from their power in the analysed bins, [n, bins].

    Returns:
        float32 [n, 2]: the pitch in Hz, and the periodicity from 0 to 1; 0 and 0 for silence.
    """
    of_power, heights_of_power, periodicity = _highest_peak(power, recipe)
    first, heights, found = _highest_peak(np.sqrt(power), recipe)
    first = np.where(found > 0, first, of_power)
    heights = np.where(found[:, None] > 0, heights, heights_of_power)
    each = np.arange(len(power))
    left, top, right = heights[each, first - 1], heights[each, first], heights[each, first + 1]
    bend = np.minimum(left - 2 * top + right, -np.finfo(np.float32).eps)
    lag = _lags(recipe)[first] + LAG_STEP * np.clip(0.5 * (left - right) / bend, -0.5, 0.5)
    return np.stack(((periodicity > 0) * (recipe.sample_rate / lag), periodicity), axis=1).astype(np.float32)


def _highest_peak(spectra: np.ndarray, recipe: Recipe) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the shortest lag whose peak is NEARLY_BEST, from spectra [n, bins].

    Returns:
        Its index [n], the autocorrelation at all lags [n, L], and that of the peak, 0 to 1, [n]; 0 if there is none.
    """
    total = spectra.sum(axis=1, keepdims=True)
    heights = (spectra @ _transform(recipe)) / np.maximum(total, np.finfo(np.float32).tiny)
    middle = heights[:, 1:-1]
    is_peak = (middle >= heights[:, :-2]) & (middle > heights[:, 2:])
    peaks = np.where(is_peak, middle, 0)
    best = peaks.max(axis=1, keepdims=True)
    first = 1 + ((peaks >= NEARLY_BEST * best) & is_peak).argmax(axis=1)
    top = heights[np.arange(len(spectra)), first]
    return first, heights, (best[:, 0] > 0) * np.clip(top, 0, 1)


def mean_pitch(hertz: np.ndarray, periodicity: np.ndarray, power: np.ndarray) -> tuple[float, float]:
    """Return one pitch in Hz and one periodicity for windows, from those of each, [T], and the power of each, [T].

    Loud and periodic windows count most. The pitch is the mean of the logarithms within HALF_RANGE octaves of the
    median, so that a few windows in which half or twice the pitch was found do not matter. 0: nothing is periodic.
    """
    loudness = np.sqrt(power.astype(np.float64))
    overall = float((loudness * periodicity).sum() / max(loudness.sum(), np.finfo(np.float64).tiny))
    weight = loudness * np.maximum(periodicity - LEAST_PERIODIC, 0)
    if not weight.any():
        return 0.0, overall
    octaves = np.log2(np.maximum(hertz, 1.0).astype(np.float64))
    order = np.argsort(octaves, kind="stable")
    passed = np.cumsum(weight[order])
    median = octaves[order][np.searchsorted(passed, passed[-1] / 2)]
    weight = np.where(np.abs(octaves - median) < HALF_RANGE, weight, 0)
    return float(2 ** ((weight * octaves).sum() / weight.sum())), overall
