"""The pace of a film: changes of the image follow changes of the sound, and the film stays with its recording."""

import numpy as np
import pytest

from film.pace import AHEAD, FASTEST, LEAP, SLOWEST, average, frames_of_sound, pace_of, paced

FPS = 24


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1])


@pytest.fixture
def sound() -> np.ndarray:
    """Changes of a sound with syllables: a peak every 0.2 to 0.4 seconds."""
    rng = np.random.default_rng(0)
    onsets = np.cumsum(rng.integers(5, 10, 60))
    changes = 0.02 * rng.random(300)
    changes[onsets[onsets < 300]] += rng.gamma(2, 0.3, (onsets < 300).sum())
    return np.convolve(changes, [0.3, 1, 0.3], "same")


@pytest.fixture
def lengths() -> np.ndarray:
    """Changes of an image at an even pace, which know nothing of the sound."""
    rng = np.random.default_rng(1)
    return np.exp(0.4 * average(rng.normal(0, 4, 300), 8))


def lengths_along(moments: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    covered = np.concatenate([[0], np.cumsum(lengths)])
    return np.diff(np.interp(moments, np.arange(len(covered)), covered))


@pytest.mark.parametrize("fps", [1, 2, 3, 5, 60])
def test_any_number_of_frames_a_second_has_a_pace(fps, sound, lengths):
    moments = paced(lengths[: 4 * fps], pace_of(sound[: 4 * fps]), fps)
    assert len(moments) == 4 * fps + 1 and np.isfinite(moments).all()
    assert (np.abs(moments - np.arange(len(moments))) <= max(AHEAD * fps, 1)).all()


def test_the_image_changes_where_the_sound_does(sound, lengths):
    moments = paced(lengths, pace_of(sound), FPS)
    changes = lengths_along(moments, lengths)
    assert correlation(changes, sound) > 0.6
    assert abs(correlation(lengths, sound)) < 0.2, "at an even pace it does not"
    assert abs(correlation(changes, np.roll(sound, 90))) < 0.2
    assert changes.max() < 4 * np.median(changes)


def test_slow_is_not_still(sound, lengths):
    changes = lengths_along(paced(lengths, pace_of(sound), FPS), lengths)
    assert changes.min() > 0.1 * np.median(changes)


def test_where_the_path_stands_still_the_film_does(sound, lengths):
    """A pause of five seconds, in which the windows are the same: the rest moves as before."""
    lengths[100:220] = 0
    changes = lengths_along(paced(lengths, pace_of(sound), FPS), lengths)
    assert np.isfinite(changes).all() and not changes[125:195].any()
    assert changes.sum() == pytest.approx(lengths.sum()) and changes.max() < 5 * np.median(changes[changes > 0])


def test_a_film_stays_with_its_recording(sound, lengths):
    moments = paced(lengths, pace_of(sound), FPS)
    frames = np.arange(len(lengths) + 1)
    assert np.abs(moments - frames).max() <= AHEAD * FPS
    assert moments[0] == 0 and moments[-1] == frames[-1]
    assert np.diff(moments).min() > 0 and np.diff(moments).max() <= LEAP


def test_jumps_of_the_path_are_spread(sound):
    """A film takes more time where the path changes five times as fast for a third of a second."""
    lengths = np.ones(300)
    lengths[100:108] = 5
    changes = lengths_along(paced(lengths, pace_of(sound), FPS), lengths)
    assert changes.max() < 4 * np.median(changes)


def test_the_pace_depends_on_how_much_the_sound_changes():
    pace = pace_of(np.array([0.0, 0.25, 0.5, *[1.0] * 10, 50.0]))
    assert pace[0] == SLOWEST and pace[-1] == pace[5] == FASTEST
    assert SLOWEST < pace[1] < pace[2] < FASTEST


@pytest.mark.parametrize("frames", [1, 2, 3, 10])
def test_silence_and_short_films_go_at_an_even_pace(frames):
    still = paced(np.zeros(frames - 1), pace_of(np.zeros(frames - 1)), FPS)
    np.testing.assert_array_equal(still, np.arange(frames))
    moving = paced(np.ones(frames - 1), pace_of(np.zeros(frames - 1)), FPS)
    np.testing.assert_allclose(moving, np.arange(frames))


def test_measures_of_the_sound_are_averaged_over_frames():
    measures = np.arange(100, dtype=np.float32)  # 1 second
    np.testing.assert_allclose(frames_of_sound(measures, 100.0, 4, 4.0), [12, 37, 62, 87])
    np.testing.assert_allclose(frames_of_sound(measures, 100.0, 30, 24.0)[24:], 0)
    assert frames_of_sound(measures, 100.0, 24, 24.0).sum() == pytest.approx(measures.sum() / 100 * 24, rel=0.02)


def test_an_average_of_the_same_is_the_same():
    for width in (1, 5, 500):
        np.testing.assert_allclose(average(np.full(20, 3.0), width), 3.0)
