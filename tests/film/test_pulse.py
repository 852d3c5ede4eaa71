"""The pulse: the image comes nearer where the sound is loud, and goes back slowly."""

import numpy as np
import pytest

from film.pulse import NEAREST, zoomed, zooms

FPS = 24
LOUDNESS = np.full(5 * FPS, -60.0)
LOUDNESS[FPS : 2 * FPS] = -10.0  # the second second


def test_loud_sound_brings_the_image_near_and_it_goes_back_slowly():
    near = zooms(LOUDNESS, FPS, 1.0)
    assert (near[:FPS] == 1).all() and near.max() == near[2 * FPS - 1]
    assert near.max() == pytest.approx(1 / (1 - NEAREST), rel=1e-3)
    level = (near - 1) / (near.max() - 1)
    assert level[FPS + 5] > 0.95, "a quarter of a second later it is near"
    assert 0.4 < level[2 * FPS + 5] < 0.7, "a quarter of a second after the sound it is still on its way back"
    assert (np.diff(near[2 * FPS - 1 :]) < 0).all()
    half = zooms(LOUDNESS, FPS, 0.5)
    assert half.max() == pytest.approx(1 / (1 - NEAREST / 2), rel=1e-3)


@pytest.mark.parametrize(("loudness", "amount"), [(LOUDNESS, 0.0), (np.full(48, -70.0), 1.0), (LOUDNESS[:1], 1.0)])
def test_without_a_pulse_or_loud_sound_nothing_moves(loudness, amount):
    assert (zooms(loudness, FPS, amount) == 1).all() and len(zooms(loudness, FPS, amount)) == len(loudness)


def test_a_circle_begins_as_it_ends():
    loudness = np.roll(LOUDNESS, 3 * FPS)  # loud to the end
    assert zooms(loudness, FPS, 1.0)[0] == 1
    near = zooms(loudness, FPS, 1.0, loop=True)
    assert near[0] == pytest.approx(near[-1], rel=0.02) and near[0] > 1.1


def test_the_middle_is_enlarged_to_the_same_size():
    frame = np.zeros((40, 60, 3), np.uint8)
    frame[10:30, 15:45] = 255  # the middle half
    np.testing.assert_array_equal(zoomed(frame, 1.0), frame)
    near = zoomed(frame, 2.0)
    assert near.shape == frame.shape and near.dtype == np.uint8 and near[2:-2, 2:-2].min() == 255
