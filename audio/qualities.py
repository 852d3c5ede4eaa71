"""Ten named qualities of a voice: what a person can hear in it, see in an image, and have again by saying it again.

They are the numbers that decide most of an image (`whitening.py`). Seven of them are told by a spectrogram in dB, three
only by the recording: pitch, periodicity and duration, `Heard`. Each becomes a standard-normal number in three steps:

1. Length: long recordings differ from words in nearly every quality, so that all long ones would look alike. The mean
   of recordings of similar length is subtracted, and divided by their standard deviation. (Not of the duration.)
2. Ranks: the place among the recordings of the calibration becomes the number that has this place in N(0, 1).
3. Decorrelation by ZCA-cor: the numbers become independent, and each stays as near to its quality as it can.

What is not known, as in a spectrogram without its recording, is 0, the middle of all voices.

Source: Kessy, Lewin, Strimmer, "Optimal whitening and decorrelation", 2018 (ZCA-cor).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from .orthogonal_map import pairwise_sum

NAMES = (
    "pitch",  # octaves: high or deep
    "brightness",  # octaves: the mean frequency
    "openness",  # share of the middle pitches: an open vowel, as in "far", or a closed one, as in "see" and "moon"
    "breadth",  # octaves: a full sound, or a thin one
    "periodicity",  # sung, or whispered
    "harmonics",  # harmonics that stand apart, or not
    "duration",  # octaves of seconds: long or short
    "motion",  # much change in time, or little
    "rise",  # octaves: from dark to bright, or from bright to dark
    "onset",  # loud at the beginning, or at the end
)
HEARD = ("pitch", "periodicity", "duration")  # those that a spectrogram does not tell

FLOOR_DB = 40.0  # below the loudest cell; what lies lower is not counted
QUIET_SHARE = 0.1  # of the time, in which a band is at the level of the room's noise
HELD = 0.3, 0.5  # of the power: from here, and from there on at all, what is steady is no noise
LOW_BANDS, MIDDLE_BANDS = slice(0, 18), slice(18, 36)  # up to 860 Hz, where harmonics are apart; up to 1.9 kHz
LENGTHS = np.log2([0.3, 0.6, 1.2, 2.5, 5.0, 10.0, 20.0, 40.0])  # octaves of seconds between which step 1 interpolates
LENGTH_WIDTH = 0.6  # octaves: recordings this much longer or shorter have 0.6 of the weight
DURATION_LIMIT = 1.3  # standard deviations: of recordings of half a minute, the duration must not decide everything
WORD = 2  # which of LENGTHS a recording has whose duration is not known
PLACES = 101  # quantiles that step 2 stores
LEAST_TAIL = 0.003  # a place beyond this share of the calibration counts as this one


@dataclass(frozen=True)
class Heard:
    """Facts about a recording that its spectrogram does not hold."""

    seconds: float  # of what is spoken
    pitch_hz: float  # 0: nothing in it is periodic
    periodicity: float  # 0 to 1


UNHEARD = Heard(0.0, 0.0, 0.0)


def measure(aligned_db: np.ndarray, band_hz: np.ndarray, heard: Sequence[Heard]) -> np.ndarray:
    """Measure the qualities of spectrograms; nan where one is not known.

    Args:
        aligned_db: dB below the loudest cell, [B, bands, columns], without silence at both ends; see `without_noise`.
        band_hz: centre frequencies of the bands, [bands].
        heard: of each of them; UNHEARD if it is not known.

    Returns:
        float64 [B, len(NAMES)].
    """
    level = np.maximum(aligned_db + FLOOR_DB, 0)
    octave, time = np.log2(band_hz / 1000), (np.arange(level.shape[2]) + 0.5) / level.shape[2] - 0.5
    total, columns = level.sum(axis=(1, 2)), level.sum(axis=1)
    brightness = (level * octave[:, None]).sum(axis=(1, 2)) / total
    apart = octave[None, :, None] - brightness[:, None, None]
    low = level[:, LOW_BANDS]
    weight = columns / columns.sum(axis=1, keepdims=True)
    course = (level * octave[:, None]).sum(axis=1) / np.maximum(columns, 1e-6)  # brightness of each column
    centre = (weight * time).sum(axis=1)
    later = time - centre[:, None]
    mean_course = (weight * course).sum(axis=1, keepdims=True)
    told = {
        "brightness": brightness,
        "openness": level[:, MIDDLE_BANDS].sum(axis=(1, 2)) / total,
        "breadth": np.sqrt((level * apart**2).sum(axis=(1, 2)) / total),
        "harmonics": np.abs(np.diff(low, 2, axis=1)).sum(axis=(1, 2)) / np.maximum(low.sum(axis=(1, 2)), 1e-6),
        "motion": np.abs(np.diff(level, axis=2)).sum(axis=(1, 2)) / total,
        "rise": (weight * later * (course - mean_course)).sum(axis=1)
        / np.maximum((weight * later**2).sum(axis=1), 1e-6),
        "onset": -centre,
    }
    told |= dict(zip(HEARD, _heard(heard).T, strict=True))
    return np.stack([told[name] for name in NAMES], axis=1)


def without_noise(decibels: np.ndarray) -> np.ndarray:
    """Subtract, as power, what each band of [B, bands, columns] dB nearly always has; dB below the loudest cell.

    Where this is most of the sound, it is a voice that holds a vowel, and stays.
    """
    power = 10 ** (decibels / 10)
    quiet = np.quantile(power, QUIET_SHARE, axis=2, keepdims=True)
    steady = quiet.sum(axis=(1, 2), keepdims=True) / power.mean(axis=2, keepdims=True).sum(axis=1, keepdims=True)
    quiet *= np.clip((HELD[1] - steady) / (HELD[1] - HELD[0]), 0, 1)
    level = 10 * np.log10(np.maximum(power - quiet, 1e-9))
    return level - level.max(axis=(1, 2), keepdims=True)


def _heard(heard: Sequence[Heard]) -> np.ndarray:
    """Return the qualities in HEARD, in this order, of each recording, [B, 3]; nan where one is not known."""
    rows = np.full((len(heard), 3), np.nan)
    for row, one in zip(rows, heard, strict=True):
        if one.seconds > 0:
            row[:] = np.log2(one.pitch_hz) if one.pitch_hz > 0 else np.nan, one.periodicity, np.log2(one.seconds)
    return rows


def position_of_length(octaves: float) -> tuple[int, float]:
    """Tell where a length, octaves of seconds, lies among LENGTHS: index of the one below, and weight of the next."""
    position = (octaves - LENGTHS[0]) / (LENGTHS[1] - LENGTHS[0]) if np.isfinite(octaves) else WORD
    position = min(max(position, 0.0), len(LENGTHS) - 1.0)
    left = min(int(position), len(LENGTHS) - 2)
    return left, position - left


# --- to N(0, 1) ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class QualityScale:
    """Places of qualities among the recordings of a calibration. Q = qualities, L = lengths."""

    means: np.ndarray  # [L, Q] of recordings of each length
    deviations: np.ndarray  # [L, Q] standard deviations of them
    places: np.ndarray  # [PLACES, Q] quantiles after step 1
    decorrelation: np.ndarray  # [Q, Q] the matrix of step 3

    @staticmethod
    def shapes() -> dict[str, tuple[int, ...]]:
        """Return the shape of each array."""
        q, lengths = len(NAMES), len(LENGTHS)
        return {"means": (lengths, q), "deviations": (lengths, q), "places": (PLACES, q), "decorrelation": (q, q)}

    @classmethod
    def blank(cls) -> "QualityScale":
        """Return a scale that has learned nothing."""
        q, places = len(NAMES), np.linspace(-1, 1, PLACES)
        means, deviations = np.zeros((len(LENGTHS), q)), np.ones((len(LENGTHS), q))
        return cls(means, deviations, np.repeat(places[:, None], q, axis=1), np.eye(q))

    @classmethod
    def fit(cls, values: np.ndarray, weights: np.ndarray | None = None) -> "QualityScale":
        """Learn the scale from `measure`d recordings [N, Q] and their weights [N]; equal ones if None."""
        weights = np.full(len(values), 1 / len(values)) if weights is None else weights / weights.sum()
        means, deviations = _moments_by_length(values, weights)
        scale = cls(means, deviations, np.zeros((PLACES, values.shape[1])), np.eye(values.shape[1]))
        even = scale._without_length(values)
        places = np.stack([_quantiles(column, weights) for column in even.T], axis=1)
        normal = cls(means, deviations, places, scale.decorrelation)._normal(even)
        products = (normal * weights[:, None]).T @ normal
        spread = np.sqrt(np.maximum(np.diag(products), 1e-6))
        return cls(means, deviations, places, inverse_root(products / np.outer(spread, spread)))

    def mixed(self, prior: "QualityScale", share: float) -> "QualityScale":
        """Return a scale between this one, which has `share` of the weight, and a prior, whose lengths it takes."""
        places = share * self.places + (1 - share) * prior.places
        mine, of_prior = (np.linalg.inv(one.decorrelation @ one.decorrelation) for one in (self, prior))
        decorrelation = inverse_root(share * mine + (1 - share) * of_prior)
        return QualityScale(prior.means, prior.deviations, places, decorrelation)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Turn `measure`d qualities [B, Q] into independent N(0, 1), [B, Q]; 0 where one is not known."""
        normal = self._normal(self._without_length(values))
        # no matrix product, because its rounding depends on the machine and on the number of rows
        return np.stack([pairwise_sum(self.decorrelation * row) for row in normal])

    def percentiles(self, values: np.ndarray) -> np.ndarray:
        """Return the place of each of [B, Q] among the calibration's recordings of similar length, 0 to 100."""
        even = self._without_length(values)
        percent = np.linspace(0, 100, PLACES)
        columns = [np.interp(one, at, percent) for one, at in zip(even.T, self.places.T, strict=True)]
        return np.stack(columns, axis=1)

    def _without_length(self, values: np.ndarray) -> np.ndarray:
        """Subtract the mean of recordings of similar length, and divide by their standard deviation (step 1)."""
        duration = NAMES.index("duration")
        octaves = values[:, duration]
        left, share = np.transpose([position_of_length(one) for one in octaves])
        left, share = left.astype(int), share[:, None]
        mean, deviation = (
            table[left] * (1 - share) + table[left + 1] * share for table in (self.means, self.deviations)
        )
        even = (values - mean) / deviation
        even[:, duration] = octaves
        return even

    def _normal(self, even: np.ndarray) -> np.ndarray:
        """Turn places among the recordings of the calibration into N(0, 1) (step 2)."""
        normals = _normal_places()
        columns = [np.interp(one, places, normals) for one, places in zip(even.T, self.places.T, strict=True)]
        normal = np.nan_to_num(np.stack(columns, axis=1), nan=0.0)
        duration = normal[:, NAMES.index("duration")]
        np.clip(duration, -DURATION_LIMIT, DURATION_LIMIT, out=duration)
        return normal


def inverse_root(correlations: np.ndarray) -> np.ndarray:
    """Return the matrix of ZCA-cor, the inverse square root of the correlations, [Q, Q]."""
    variances, axes = np.linalg.eigh(correlations)
    return (axes / np.sqrt(np.maximum(variances, 1e-3))) @ axes.T


def weights_by_length(octaves: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Multiply the weights [N] of recordings by how near their lengths, octaves of seconds [N], are to LENGTHS: [N, L].

    An unknown length, nan, counts as a second.
    """
    near = np.exp(-0.5 * ((np.nan_to_num(octaves)[:, None] - LENGTHS) / LENGTH_WIDTH) ** 2)
    return (near + 1e-9) * weights[:, None]


def _moments_by_length(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute mean and standard deviation of the qualities of recordings of each length: [L, Q] each."""
    octaves = values[:, NAMES.index("duration")]
    near = weights_by_length(octaves, weights)
    known = np.isfinite(values)
    filled = np.where(known, values, 0)
    total = np.maximum(near.T @ known, 1e-12)
    means = (near.T @ filled) / total
    nearest = near.argmax(axis=1)
    apart = np.where(known, values - means[nearest], 0)
    return means, np.maximum(np.sqrt((near.T @ apart**2) / total), 1e-3)


def _quantiles(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute PLACES weighted quantiles of what is known of [N]; equal values share the middle of their places."""
    known = np.isfinite(values)
    if not known.any():
        return np.linspace(-1, 1, PLACES)
    distinct, which = np.unique(values[known].round(4), return_inverse=True)
    weight = np.bincount(which, weights[known])
    passed = (np.cumsum(weight) - weight / 2) / weight.sum()
    places = np.interp(np.linspace(LEAST_TAIL, 1 - LEAST_TAIL, PLACES), passed, distinct)
    return np.maximum.accumulate(places + np.arange(PLACES) * 1e-9)


def _normal_places() -> np.ndarray:
    """Return the numbers that have the PLACES in N(0, 1), [PLACES]."""
    return np.array([NormalDist().inv_cdf(p) for p in np.linspace(LEAST_TAIL, 1 - LEAST_TAIL, PLACES)])
