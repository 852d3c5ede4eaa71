"""Named qualities: what they measure, and that they are independent N(0, 1)."""

import numpy as np
import pytest

from audio.mel import mel_edges
from audio.qualities import DURATION_LIMIT, NAMES, UNHEARD, Heard, QualityScale, measure, without_noise

BAND_HZ = mel_edges()[1:-1]


def spectrogram(first: int = 5, last: int = 40, begin: int = 0, end: int = 64) -> np.ndarray:
    """Make a spectrogram [1, 64, 64] with sound between two bands and two columns."""
    decibels = np.full((1, 64, 64), -80.0)
    decibels[0, first:last, begin:end] = -3.0
    return decibels


def quality(name: str, decibels: np.ndarray, heard: Heard = UNHEARD) -> float:
    return float(measure(decibels, BAND_HZ, [heard])[0, NAMES.index(name)])


def rising(up: bool) -> np.ndarray:
    decibels = np.full((1, 64, 64), -80.0)
    for column in range(64):
        band = column // 2 if up else 31 - column // 2
        decibels[0, band : band + 6, column] = 0
    return decibels


def test_each_quality_grows_with_what_it_names():
    assert quality("brightness", spectrogram(30, 60)) > quality("brightness", spectrogram(2, 20)) + 1
    assert quality("breadth", spectrogram(2, 60)) > quality("breadth", spectrogram(20, 30)) + 0.5
    assert quality("openness", spectrogram(18, 36)) > quality("openness", spectrogram(2, 18)) + 0.9
    assert quality("rise", rising(True)) > 0 > quality("rise", rising(False))
    assert quality("onset", spectrogram(end=20)) > 0 > quality("onset", spectrogram(begin=44))
    combed = spectrogram(0, 20)
    combed[:, ::3] = -80
    assert quality("harmonics", combed) > quality("harmonics", spectrogram(0, 20)) + 0.5
    restless = spectrogram()
    restless[..., ::4] = -80
    assert quality("motion", restless) > quality("motion", spectrogram()) + 0.1
    high, low = Heard(1.0, 240.0, 0.9), Heard(4.0, 120.0, 0.5)
    assert quality("pitch", spectrogram(), high) == pytest.approx(quality("pitch", spectrogram(), low) + 1)
    assert quality("duration", spectrogram(), low) == pytest.approx(2)
    assert quality("periodicity", spectrogram(), high) == pytest.approx(0.9)


def test_what_is_not_known_is_the_middle_of_all_voices():
    values = measure(spectrogram(), BAND_HZ, [UNHEARD])
    assert np.isnan(values[0, [NAMES.index(name) for name in ("pitch", "periodicity", "duration")]]).all()
    assert np.isnan(quality("pitch", spectrogram(), Heard(1.0, 0.0, 0.1)))  # a whisper
    assert np.isfinite(QualityScale.blank()(values)).all()


@pytest.fixture(scope="module")
def population() -> np.ndarray:
    """Make the qualities of 3,000 recordings: correlated, skewed, and other for long recordings."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((3000, len(NAMES))) @ (np.eye(len(NAMES)) + 0.3)
    values[:, NAMES.index("duration")] = octaves = rng.uniform(-1.5, 5, 3000)
    values[:, NAMES.index("motion")] = np.exp(values[:, NAMES.index("motion")] / 2) + octaves
    values[::7, NAMES.index("pitch")] = np.nan
    return values


def test_a_population_becomes_independent_standard_normal_numbers(population):
    """The pitch is 0 where it is not known, and no duration is beyond DURATION_LIMIT, so both vary less."""
    normal = QualityScale.fit(population)(population)
    variances = np.ones(len(NAMES))
    variances[NAMES.index("pitch")] = np.isfinite(population[:, NAMES.index("pitch")]).mean()
    of_noise = np.random.default_rng(1).standard_normal(100_000)
    variances[NAMES.index("duration")] = np.clip(of_noise, -DURATION_LIMIT, DURATION_LIMIT).var()
    np.testing.assert_allclose(np.cov(normal.T), np.diag(variances), atol=0.1)
    assert np.abs(normal.mean(axis=0)).max() < 0.1


def test_each_number_stays_near_its_quality(population):
    normal = QualityScale.fit(population)(population)
    for index, name in enumerate(NAMES):
        known = np.isfinite(population[:, index])
        if name != "motion":  # which depends on the length
            assert np.corrcoef(population[known, index], normal[known, index])[0, 1] > 0.6, name


def test_long_recordings_are_compared_with_long_ones(population):
    scale, octaves = QualityScale.fit(population), population[:, NAMES.index("duration")]
    motion = scale(population)[:, NAMES.index("motion")]
    assert abs(motion[octaves > 3].mean() - motion[octaves < 1].mean()) < 0.4
    assert np.corrcoef(population[:, NAMES.index("motion")], octaves)[0, 1] > 0.7


def test_extremes_are_bounded(population):
    scale = QualityScale.fit(population)
    assert np.abs(scale(population[:1] + 1e6)).max() < 12


def test_a_mixture_of_two_scales_is_between_them(population):
    one, other = QualityScale.fit(population[:1000]), QualityScale.fit(population[1000:] + 1)
    between = one.mixed(other, 0.5)
    np.testing.assert_allclose(between.places, (one.places + other.places) / 2)
    np.testing.assert_allclose(one.mixed(other, 0.0).decorrelation, other.decorrelation, atol=1e-6)


def test_percentiles(population):
    places = QualityScale.fit(population).percentiles(population)
    known = np.isfinite(places)
    assert places[known].min() >= 0 and places[known].max() <= 100
    assert np.nanmedian(places[:, NAMES.index("brightness")]) == pytest.approx(50, abs=3)


def test_a_row_has_the_same_bits_alone(population):
    scale = QualityScale.fit(population)
    np.testing.assert_array_equal(scale(population[:50])[7:8], scale(population[7:8]))


def test_steady_noise_is_subtracted_and_a_held_vowel_is_not():
    noisy = spectrogram(begin=20, end=40)
    noisy = np.maximum(noisy, -15.0)
    assert without_noise(noisy)[0, 50].max() < -30
    held = spectrogram()
    np.testing.assert_allclose(without_noise(held), held - held.max(), atol=1e-6)
