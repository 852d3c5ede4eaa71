"""The start noise of a film: noise at each moment, that of a window in the middle of the window."""

import collections
import itertools

import numpy as np
import pytest
import soundfile

import film.path
from audio.calibration import voice_latents
from audio.gaussianity import is_gaussian
from audio.initial_noise import Voices, initial_noise
from audio.whitening import Whitening
from config import BUILTIN_CALIBRATION_DIR
from film.path import Path
from ldm.models.diffusion.sampling import seeded_noise
from tests.recordings import EXAMPLES

SHAPE = (4, 32, 32)
CENTRES = 1.5 + 0.25 * np.arange(12)
SECONDS = 6.0


@pytest.fixture(scope="module")
def voices() -> Voices:
    """Windows that have little in common, as is the case of most windows of speech: halves of real recordings."""
    whitening = Whitening.load(BUILTIN_CALIBRATION_DIR / "whitening.npz")
    made = []
    for path in EXAMPLES:
        samples, rate = soundfile.read(path, dtype="float32")
        made += [voice_latents(half, BUILTIN_CALIBRATION_DIR, sample_rate=rate) for half in np.array_split(samples, 2)]
    made = made[: len(CENTRES)]
    return Voices(np.concatenate([one.latents for one in made]), whitening, heard=[one.heard for one in made])


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return seeded_noise([42], SHAPE)[0].numpy()


def path(voices: Voices, noise: np.ndarray, smooth: float, loop: bool = False) -> Path:
    return Path(voices, CENTRES, SECONDS, noise, 0.9, 0.0, smooth, loop)


@pytest.mark.parametrize("layout_strength", [0.0, 0.5])
def test_without_smoothing_the_middle_of_a_window_has_its_noise_to_the_bit(voices, noise, layout_strength):
    plain = Path(voices, CENTRES, SECONDS, noise, 0.9, layout_strength)
    for row in (0, 3, 11):
        still = initial_noise([(voices, row, 1.0)], noise, 0.9, layout_strength)
        np.testing.assert_array_equal(plain.x_T(CENTRES[row]), still)
    np.testing.assert_array_equal(plain.in_the_middle(CENTRES), CENTRES)
    np.testing.assert_array_equal(plain.x_T(0.0), plain.x_T(CENTRES[0]), "before the first window: its noise")


@pytest.mark.parametrize("smooth", [0.0, 0.6, 1.5])
@pytest.mark.parametrize("loop", [False, True])
def test_every_moment_is_noise_of_the_same_norm(voices, noise, smooth, loop):
    way = path(voices, noise, smooth, loop)
    for moment in np.linspace(0, SECONDS, 25):
        x_T = way.x_T(moment)
        assert np.linalg.norm(x_T) == pytest.approx(np.linalg.norm(noise), rel=1e-5)
        assert sum(weight for _, weight in way.weights(moment)) == pytest.approx(1)
        assert is_gaussian(x_T[None])[0]


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_half_the_time_is_half_the_way(voices, noise, smooth):
    """Twice as many frames have half the step: nowhere is there a jump."""
    way = path(voices, noise, smooth)

    def largest(count: int) -> float:
        noises = np.stack([way.x_T(moment) for moment in np.linspace(2, 3, count)])
        return float(np.linalg.norm(np.diff(noises, axis=0).reshape(count - 1, -1), axis=1).max())

    assert largest(49) < 0.6 * largest(25)


def test_smoothing_makes_the_way_shorter(voices, noise):
    def length(smooth: float) -> float:
        way = path(voices, noise, smooth)
        noises = np.stack([way.x_T(moment) for moment in np.linspace(2.5, 3.5, 25)])
        return float(np.linalg.norm(np.diff(noises, axis=0).reshape(24, -1), axis=1).sum())

    lengths = [length(smooth) for smooth in (0.0, 0.5, 1.0, 1.5)]
    assert all(longer > 1.1 * shorter for longer, shorter in itertools.pairwise(lengths)), lengths


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_a_circle_ends_where_it_begins(voices, noise, smooth):
    way = path(voices, noise, smooth, loop=True)
    np.testing.assert_allclose(way.x_T(SECONDS), way.x_T(0.0), atol=1e-4)
    gap = np.linalg.norm(way.x_T(SECONDS - 0.02) - way.x_T(0.02))
    assert gap < 0.2 * np.linalg.norm(way.x_T(0.0))
    assert not np.allclose(path(voices, noise, smooth).x_T(SECONDS), way.x_T(SECONDS), atol=0.1)


def test_the_ends_are_neither_frozen_nor_left_out(voices, noise):
    """Half a window at either end has no window of its own: there a smooth film goes at half its speed."""
    way = path(voices, noise, 1.0)
    times = np.linspace(0, SECONDS, 601)
    moments = way.in_the_middle(times)
    assert moments[0] == CENTRES[0] and moments[-1] == CENTRES[-1]
    assert np.diff(moments).min() > 0.4 * np.diff(times).max()
    middle = (times >= 2 * CENTRES[0]) & (times <= SECONDS - 2 * (SECONDS - CENTRES[-1]))
    np.testing.assert_allclose(moments[middle], times[middle])


def test_the_noise_of_each_window_is_made_once(voices, noise, monkeypatch):
    """A moment may need more windows than are kept otherwise: then all that it needs are kept for the next one."""
    made: collections.Counter[int] = collections.Counter()
    make = Voices.noise

    def counted(self, row, shape):
        made[row] += 1
        return make(self, row, shape)

    monkeypatch.setattr(film.path, "REMEMBERED", 2)
    monkeypatch.setattr(Voices, "noise", counted)
    way = path(voices, noise, 1.0)
    for moment in np.linspace(CENTRES[0], CENTRES[-1], 20):
        way.x_T(moment)
    assert made == dict.fromkeys(range(len(CENTRES)), 1)


def test_a_recording_as_long_as_a_window_stands_still(voices, noise):
    one = Path(Voices(voices.latents[:1], voices.whitening), CENTRES[:1], 3.0, noise, 0.9, 0.0, 1.5)
    moments = one.in_the_middle(np.linspace(0, 3, 4))
    assert len({one.x_T(moment).tobytes() for moment in moments}) == 1
