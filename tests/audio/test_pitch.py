"""Pitch and periodicity, compared with tones of known pitch and with noise."""

import numpy as np
import pytest

from audio.features import extract
from audio.pitch import HIGHEST_HZ, LAG_STEP, LOWEST_HZ, _highest_peak, _lags, analysed_bins, find_pitch
from audio.recipe import RECIPE

SECONDS = np.arange(RECIPE.sample_rate) / RECIPE.sample_rate


def power(sound: np.ndarray) -> np.ndarray:
    """Compute the power spectrum of the middle window of a sound, in the analysed bins: [1, bins]."""
    n = RECIPE.n_fft
    window = sound[len(sound) // 2 :][:n] * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n))
    return (np.abs(np.fft.rfft(window)) ** 2)[None, analysed_bins(RECIPE)].astype(np.float32)


def vowel(hertz: float, weakest: int = 1) -> np.ndarray:
    """Make a sound of harmonics of `hertz`, from number `weakest` up."""
    harmonics = [np.sin(2 * np.pi * hertz * k * SECONDS) / k for k in range(weakest, 20)]
    return np.sum(harmonics, axis=0).astype(np.float32) / 8


@pytest.mark.parametrize("hertz", [65, 90, 131.5, 180, 260, 330, 410])
def test_the_pitch_of_a_vowel(hertz):
    (found, periodicity), *_ = find_pitch(power(vowel(hertz)), RECIPE)
    assert found == pytest.approx(hertz, rel=0.01)
    assert periodicity > 0.95


@pytest.mark.parametrize("hertz", [110, 190, 240])
def test_the_pitch_of_a_vowel_without_its_fundamental(hertz):
    """A telephone cuts off what is below 300 Hz, and people hear the pitch all the same."""
    (found, _), *_ = find_pitch(power(vowel(hertz, weakest=2)), RECIPE)
    assert found == pytest.approx(hertz, rel=0.01)


@pytest.mark.parametrize("hertz", [100, 115, 130])
def test_a_harmonic_at_a_resonance_of_the_mouth_is_not_the_pitch(hertz):
    """In the vowel of "three", the mouth makes harmonics near 350 Hz loudest: the third one of a deep voice."""
    weights = {1: 0.15, 2: 0.1, 3: 1.0, 4: 0.05}
    sound = np.sum([w * np.sin(2 * np.pi * hertz * k * SECONDS + k) for k, w in weights.items()], axis=0)
    (found, _), *_ = find_pitch(power(sound.astype(np.float32)), RECIPE)
    assert found == pytest.approx(hertz, rel=0.02)


def test_noise_is_hardly_periodic():
    noise = np.random.default_rng(0).standard_normal((40, 2 * RECIPE.n_fft))
    periodicity = np.concatenate([find_pitch(power(one), RECIPE)[:, 1] for one in noise])
    assert periodicity.mean() < 0.45 and periodicity.max() < 0.75


def test_silence_has_no_pitch():
    assert not find_pitch(np.zeros_like(power(vowel(100))), RECIPE).any()


def test_every_pitch_is_within_the_range_of_voices():
    noise = np.random.default_rng(1).random((500, power(vowel(100)).shape[1]), np.float32)
    hertz = find_pitch(noise, RECIPE)[:, 0]
    assert hertz.min() > LOWEST_HZ * 0.95 and hertz.max() < HIGHEST_HZ * 1.05


def test_where_magnitudes_have_no_peak_power_gives_the_pitch():
    bins = power(vowel(100)).shape[1]
    falling = np.exp(-12 * np.linspace(0, 1, bins, dtype=np.float32))  # nearly all is in few bins
    spectra = np.random.default_rng(3).random((20_000, bins), np.float32) ** 20 * falling
    without = _highest_peak(np.sqrt(spectra), RECIPE)[2] == 0
    first, _, periodicity = _highest_peak(spectra[without], RECIPE)
    assert (periodicity > 0).sum() >= 3
    hertz = find_pitch(spectra[without], RECIPE)[:, 0][periodicity > 0]
    lags = RECIPE.sample_rate / hertz
    np.testing.assert_allclose(lags, _lags(RECIPE)[first[periodicity > 0]], atol=LAG_STEP / 2)


def test_a_recording_has_the_pitch_of_most_of_it():
    glottal = np.concatenate([vowel(187), 0.05 * np.random.default_rng(2).standard_normal(11_025).astype(np.float32)])
    heard = extract(glottal, sample_rate=RECIPE.sample_rate)
    assert heard.pitch_hz == pytest.approx(187, rel=0.02)
    assert extract(np.random.default_rng(3).normal(0, 0.1, 22_050), sample_rate=22_050).periodicity < 0.5
