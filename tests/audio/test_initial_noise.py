"""x_T of one voice and of several has the variance of N(0, I)."""

import numpy as np
import pytest

import config
from audio.calibration import Calibration
from audio.features import extract
from audio.gaussianity import is_gaussian
from audio.initial_noise import (
    SHAPE_ORDER,
    Voices,
    combine_voices,
    cosine_basis,
    imprint_shape,
    initial_noise,
    mix_with_noise,
    noise_of_voice,
    normalised_weights,
    sound_shape,
    walk,
    with_noise,
)
from audio.orthogonal_map import lowest_frequencies, named_part
from audio.qualities import NAMES
from audio.whitening import Whitening


@pytest.fixture(scope="module")
def whitening() -> Whitening:
    return Whitening.load(config.BUILTIN_CALIBRATION_DIR / "whitening.npz")


@pytest.fixture(scope="module")
def voices() -> np.ndarray:
    calibration = Calibration.load(config.BUILTIN_CALIBRATION_DIR)
    paths = sorted(config.EXAMPLES_DIR.glob("voice_*.wav"))
    return np.stack([calibration.z_score(extract(path).vector) for path in paths]).reshape(-1, 4, 32, 32)


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(7).standard_normal((1000, 4, 32, 32), dtype=np.float32)


def test_mix():
    voice, noise = np.random.default_rng(1).standard_normal((2, 5, 4, 32, 32)).astype(np.float32)
    radius = np.linalg.norm(noise.reshape(5, -1), axis=1)
    for strength in (0, 0.25, 1):
        blend = mix_with_noise(voice, noise, strength).reshape(5, -1)
        np.testing.assert_allclose(np.linalg.norm(blend, axis=1), radius, rtol=1e-5)
        share = (blend * voice.reshape(5, -1)).sum(1) / radius / np.linalg.norm(voice.reshape(5, -1), axis=1)
        np.testing.assert_allclose(share, strength**0.5, atol=0.05)
    np.testing.assert_array_equal(mix_with_noise(voice, noise, 0), noise)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_mix_refuses_strengths_beyond_0_to_1(noise, strength):
    with pytest.raises(ValueError, match="0 .* to 1"):
        mix_with_noise(noise, noise, strength)


# --- several voices --------------------------------------------------------------------------------------------------
def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a.ravel() @ b.ravel()) / np.linalg.norm(a) / np.linalg.norm(b))


def test_a_duet_holds_each_voice_by_its_weight_and_is_noise(whitening, voices, noise):
    both = [(Voices(voices, whitening), row, weight) for row, weight in ((0, 0.3), (1, 0.7))]
    x_T = initial_noise(both, noise[0], 1.0)
    assert is_gaussian(x_T[None])[0] and x_T.dtype == np.float32
    assert np.linalg.norm(x_T) == pytest.approx(np.linalg.norm(noise[0]), rel=1e-5)
    alone = [whitening.whiten(voices[row : row + 1])[0] for row in (0, 1)]
    related = cosine(*alone)  # of the two voices: they are nearly, not quite orthogonal
    wanted = [0.3**0.5 + 0.7**0.5 * related, 0.7**0.5 + 0.3**0.5 * related]
    length = (1 + 2 * 0.21**0.5 * related) ** 0.5
    np.testing.assert_allclose([cosine(x_T, voice) for voice in alone], np.array(wanted) / length, atol=1e-3)


def test_blend_keeps_the_variance(noise):
    x = combine_voices(noise[:3], normalised_weights([1, 2, 3]))
    assert np.linalg.norm(x) / 64 == pytest.approx(1, abs=0.04)
    np.testing.assert_allclose(combine_voices(noise[[0, 0]], (0.3, 0.7)), noise[0], rtol=1e-5)  # a voice with itself
    assert not combine_voices(np.stack([noise[0], -noise[0]]), (0.5, 0.5)).any()


def test_similar_voices_together_have_low_frequencies_no_larger_than_noise(noise):
    similar = noise[:2].copy()
    squares = np.broadcast_to(noise[2].reshape(4, 4, 8, 4, 8).mean(axis=(2, 4), keepdims=True), (4, 4, 8, 4, 8))
    similar += squares.reshape(4, 32, 32) - lowest_frequencies(similar).astype(np.float32)  # the same in both
    blend = combine_voices(similar, (0.5, 0.5))
    np.testing.assert_allclose(lowest_frequencies(blend[None])[0], squares.reshape(4, 32, 32), rtol=1e-4, atol=1e-6)


def test_shares():
    assert normalised_weights([1, 3]) == (0.25, 0.75)
    for wrong in ([0, 0], [-1, 2], [float("nan"), 1], [float("inf"), 1]):
        with pytest.raises(ValueError, match="one above 0"):
            normalised_weights(wrong)


@pytest.mark.parametrize(("count", "frames"), [(2, 2), (2, 24), (3, 7), (5, 4)])
def test_a_walk_goes_from_the_first_to_the_last_in_even_steps(count, frames):
    weights = walk(count, frames)
    assert len(weights) == frames
    assert weights[0] == (1.0, *[0.0] * (count - 1)) and weights[-1] == (*[0.0] * (count - 1), 1.0)
    np.testing.assert_allclose(np.sum(weights, axis=1), 1)
    points = np.sqrt(weights)  # where voices are orthogonal these are directions
    steps = [np.arccos(min(1, a @ b)) for a, b in zip(points, points[1:], strict=False)]
    if count == 2:
        np.testing.assert_allclose(steps, np.pi / 2 / (frames - 1), atol=1e-7)


def test_the_ends_of_a_walk_are_the_voices_themselves(whitening, voices, noise):
    known = Voices(voices, whitening)
    for frame, row in ((0, 0), (-1, 1)):
        parts = [(known, voice, weight) for voice, weight in enumerate(walk(2, 5)[frame])]
        np.testing.assert_array_equal(
            initial_noise(parts, noise[0], 0.9), initial_noise([(known, row, 1.0)], noise[0], 0.9)
        )


def test_noise_and_raw_latents_are_left_as_they_are(whitening, voices, noise):
    for latents, by in ((noise[:2], whitening), (voices, None)):
        x_T = initial_noise([(Voices(latents, by), 1, 1.0)], noise[5], 0.9, layout_strength=0.5)
        np.testing.assert_array_equal(x_T, latents[1])


@pytest.mark.parametrize("shape", [(4, 64, 64), (4, 40, 24), (16, 32, 32), (128, 8, 8)], ids=str)
def test_voices_take_the_shape_of_the_noise(whitening, voices, shape):
    noise = np.random.default_rng(8).standard_normal(shape, dtype=np.float32)
    both = [(Voices(voices, whitening), row, weight) for row, weight in ((0, 0.3), (1, 0.7))]
    x_T = initial_noise(both, noise, 0.9, layout_strength=0.3)
    assert x_T.shape == shape and x_T.dtype == np.float32
    assert np.linalg.norm(x_T) == pytest.approx(np.linalg.norm(noise), rel=1e-5)
    assert is_gaussian(initial_noise(both, noise, 0.9)[None])[0]
    alone = [whitening.whiten(voices[row : row + 1], shape)[0] for row in (0, 1)]
    assert cosine(x_T, alone[0]) > 0.3 and cosine(x_T, alone[1]) > 0.55


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "noise"])
def test_latents_that_are_used_as_they_are_have_one_shape(whitening, voices, noise, raw):
    known = Voices(voices, None) if raw else Voices(noise[:2], whitening)
    with pytest.raises(ValueError, match=r"\[4, 32, 32\] that are used as they are.*needs \[4, 64, 64\]"):
        initial_noise([(known, 1, 1.0)], np.zeros((4, 64, 64), np.float32), 0.9)


# --- the shape of a sound --------------------------------------------------------------------------------------------
def test_cosine_basis_is_scipys():
    dct = pytest.importorskip("scipy.fft").dct
    np.testing.assert_allclose(cosine_basis(32), dct(np.eye(32), axis=0, norm="ortho")[:SHAPE_ORDER], atol=1e-12)


def test_layout_shows_the_sound_and_stays_noise(whitening, voices, noise):
    layout = sound_shape(whitening, voices[:1])
    decibels = whitening.to_decibels(voices[:1])[0]
    spectrogram = np.maximum(decibels - decibels.max(), -40).reshape(64, 64)[::-1]  # what a card shows
    coarse = cosine_basis(64).T @ layout @ cosine_basis(64)
    assert np.corrcoef(coarse.ravel(), spectrogram.ravel())[0, 1] > 0.5
    assert (layout**2).sum() == pytest.approx(SHAPE_ORDER**2 - 1) and layout[0, 0] == 0
    basis = cosine_basis(32)
    for strength in (0.0, 0.2, 1.0):
        x_T = imprint_shape(noise[0], layout, strength)
        assert x_T.dtype == np.float32 and np.linalg.norm(x_T) == pytest.approx(np.linalg.norm(noise[0]), rel=1e-5)
        assert is_gaussian(x_T[None])[0] or strength == 1
        for channel in x_T:
            low = basis @ channel @ basis.T
            assert np.corrcoef(low.ravel(), layout.ravel())[0, 1] == pytest.approx(strength**0.5, abs=0.3)
    np.testing.assert_allclose(imprint_shape(noise[0], layout, 0.0), noise[0], rtol=1e-5)


def test_layout_leaves_the_rest_of_the_frequencies(whitening, voices, noise):
    changed = imprint_shape(noise[0], sound_shape(whitening, voices[:1]), 0.7)
    scale = (changed * noise[0]).sum() / (noise[0] ** 2).sum()
    assert 0.9 < scale < 1.1
    spectrum, before = (np.fft.fft2(x)[..., 12:16, 12:16] for x in (changed, noise[0]))
    np.testing.assert_allclose(np.abs(spectrum), np.abs(before), rtol=0.2)


@pytest.mark.parametrize("shape", [(4, 64, 64), (4, 40, 24), (16, 8, 8), (4, 4, 100)], ids=str)
def test_layout_of_other_shapes(whitening, voices, shape):
    noise = np.random.default_rng(9).standard_normal(shape, dtype=np.float32)
    layout = sound_shape(whitening, voices[:1])
    x_T = imprint_shape(noise, layout, 1.0)
    down, across = cosine_basis(shape[1]), cosine_basis(shape[2])
    np.testing.assert_allclose(down @ down.T, np.eye(len(down)), atol=1e-12)
    for channel in x_T:
        low = (down @ channel @ across.T).ravel()[1:]
        assert np.corrcoef(low, layout[: len(down), : len(across)].ravel()[1:])[0, 1] > 0.999
    assert np.linalg.norm(x_T) == pytest.approx(np.linalg.norm(noise), rel=1e-5)


def test_a_voice_and_noise_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        mix_with_noise(np.ones((1, 4, 8, 8)), np.ones((1, 4, 16, 16)), 0.5)


def test_a_layout_of_nothing_changes_nothing():
    noise = np.random.default_rng(0).normal(size=(4, 32, 32)).astype(np.float32)
    assert np.array_equal(imprint_shape(noise, np.zeros((8, 8)), 0.5), noise)


# --- the seed's part --------------------------------------------------------------------------------------------------
def test_the_part_of_the_seed_is_another_one_for_each_voice(whitening, voices, noise):
    """With the same noise for all, a tenth of each x_T would be common to all of an evening."""
    parts = np.stack([noise_of_voice(voice, noise[0], 0.9) for voice in whitening.whiten(voices)]).reshape(
        len(voices), -1
    )
    cosines = parts @ parts.T / np.linalg.norm(noise[0]) ** 2
    expected = (flat := whitening.whiten(voices).reshape(len(voices), -1)) @ flat.T / flat.shape[1]
    np.testing.assert_allclose(cosines, 0.99 * expected + 0.01, atol=0.06)
    assert all(is_gaussian(part.reshape(1, 4, 32, 32))[0] for part in parts)
    assert np.abs((parts * flat).sum(axis=1)).max() / 4096 < 0.06  # nearly orthogonal to the voice itself


def test_another_seed_is_another_noise(whitening, voices, noise):
    voice = whitening.whiten(voices[:1])[0]
    one, other = (noise_of_voice(voice, seed, 0.9).ravel() for seed in noise[:2])
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.06


@pytest.mark.parametrize("shape", [(4, 32, 32), (4, 83, 61), (16, 32, 32), (4, 8, 8)], ids=str)
def test_another_seed_hardly_changes_what_is_named(whitening, voices, shape):
    voice = whitening.whiten(voices[:1], shape)[0]
    seeds = np.random.default_rng(9).standard_normal((2, *shape), dtype=np.float32)
    one, other = (with_noise(voice, seed, 0.9) for seed in seeds)
    of_voice, of_one, of_other = (named_part(x, len(NAMES)) for x in (voice, one, other))
    assert cosine(of_one, of_other) > 0.9 and cosine(of_one, of_voice) > 0.95
    assert cosine(one - of_one, other - of_other) < 0.93  # the rest is changed
    assert cosine(one, voice) == pytest.approx(0.9**0.5, abs=0.03)
    assert np.linalg.norm(one) == pytest.approx(np.linalg.norm(seeds[0]), rel=1e-5)


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_at_the_ends_there_is_the_noise_alone_or_the_voice_alone(whitening, voices, noise, strength):
    voice = whitening.whiten(voices[:1])[0]
    wanted = voice if strength else noise[0]
    assert cosine(with_noise(voice, noise[0], strength), wanted) == pytest.approx(1, abs=1e-6)


def test_without_a_voice_the_noise_stays_as_it_is(whitening, voices, noise):
    np.testing.assert_allclose(noise_of_voice(whitening.whiten(voices[:1])[0], noise[0], 0.0), noise[0], rtol=1e-6)
