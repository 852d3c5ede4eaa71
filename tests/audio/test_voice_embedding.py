"""The embedding of voices: what its numbers hold of short recordings and of long ones."""

import numpy as np
import pytest

from audio.embedding import LONG, MOVES, OF_CHANGE, builtin, halves, moved, share_of_change

SIZE = 64


@pytest.fixture(scope="module")
def spectrograms() -> np.ndarray:
    """Draw four smooth spectrograms [4, SIZE, SIZE], dB."""
    coarse = np.random.default_rng(0).uniform(-50, 0, (4, 8, 8))
    smooth = coarse.repeat(8, axis=1).repeat(8, axis=2)
    return smooth - smooth.max(axis=(1, 2), keepdims=True)


def test_a_half_is_stretched_to_the_full_width():
    ramp = np.broadcast_to(np.arange(SIZE, dtype=float), (3, SIZE, SIZE))
    first, second = halves(ramp)
    assert first.shape == second.shape == ramp.shape
    np.testing.assert_allclose(first[0, 0, 1:-1], (np.arange(SIZE) + 0.5)[1:-1] / 2 - 0.5)
    np.testing.assert_allclose(second - first, SIZE / 2)


def test_a_moved_spectrogram_has_each_band_elsewhere():
    bands = np.broadcast_to(np.arange(SIZE, dtype=float)[:, None], (SIZE, SIZE))
    for move, one in zip(MOVES, moved(bands), strict=True):
        np.testing.assert_array_equal(one[:, 0], np.clip(np.arange(SIZE) - move, 0, SIZE - 1))


def test_what_changes_counts_in_long_recordings_alone():
    shares = share_of_change(np.log2([0.3, 1.0, LONG[0], 3.0, LONG[1], 600.0, np.nan]))
    assert (shares[[0, 1, 2, 6]] == 0).all() and 0 < shares[3] < OF_CHANGE and (shares[4:6] == OF_CHANGE).all()


def test_short_recordings_keep_their_numbers_and_long_ones_tell_how_they_change(spectrograms):
    embedding, octaves = builtin(), np.log2([1.0, 30.0, 30.0, np.nan])
    numbers = embedding.numbers(spectrograms, octaves)
    told = embedding.told_apart(numbers, spectrograms, octaves)
    np.testing.assert_array_equal(told[[0, 3]], numbers[[0, 3]])
    assert np.abs(told[1:3] - numbers[1:3]).max() > 0.5
    # what is the same in both halves does not matter, their order does
    turned = np.roll(spectrograms, SIZE // 2, axis=2)
    change = told - np.sqrt(1 - OF_CHANGE) * numbers
    other = embedding.told_apart(numbers, turned, octaves) - np.sqrt(1 - OF_CHANGE) * numbers
    mean = np.sqrt(OF_CHANGE) * -embedding.change[0] / embedding.change[1]
    np.testing.assert_allclose((other + change)[1:3], 2 * np.broadcast_to(mean, (2, mean.size)), atol=1e-4)


def test_one_recording_has_the_same_bits_alone_and_among_others(spectrograms):
    embedding, octaves = builtin(), np.full(4, 5.0)
    numbers = embedding.numbers(spectrograms, octaves)
    told = embedding.told_apart(numbers, spectrograms, octaves)
    alone = embedding.told_apart(numbers[2:3], spectrograms[2:3], octaves[2:3])
    np.testing.assert_array_equal(alone[0], told[2])
