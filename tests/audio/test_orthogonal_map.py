"""The map from a code to noise of any shape: exactly orthogonal, noise-like, and the same bits on every machine."""

import hashlib

import numpy as np
import pytest

from audio import orthogonal_map
from audio.gaussianity import correlation, spatial_power
from audio.orthogonal_map import hadamard, leading_numbers, named_part, pairwise_sum, scatter, spread, with_named

FROZEN = [0.25211279, 1.70628747, -0.56168959, 0.03899378]
# sha256 of the noise of one code, float64
FROZEN_SHA256 = {
    (4, 32, 32): "99b48ec88692132b",
    (4, 64, 64): "53de81cb6bead244",
    (4, 96, 64): "8b512d0d56e99374",
    (16, 128, 128): "ed6f301de92eb921",
    (4, 40, 24): "c5c1fa78693d6f4f",
    (128, 8, 8): "6ca5648885d8b309",
}
SHAPES = [
    (4, 32, 32),
    (4, 64, 64),
    (4, 96, 64),
    (4, 128, 128),
    (16, 128, 128),
    (32, 32, 32),
    (4, 40, 24),
    (128, 8, 8),
    (4, 45, 31),
    (64, 1, 512),
]
AXES = 256
VARIANCES = np.exp(-np.arange(AXES) / 80)
VARIANCES /= VARIANCES.sum()  # about as the built-in calibration's


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    """Draw 12 codes [12, AXES] on the unit sphere."""
    drawn = np.random.default_rng(6).standard_normal((12, AXES)) * np.sqrt(VARIANCES)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_pairwise_sum():
    x = np.random.default_rng(4).standard_normal((3, 5, 4096))
    for size in (1, 2, 3, 7, 1536, 4096):
        np.testing.assert_allclose(pairwise_sum(x[..., :size]), x[..., :size].sum(axis=-1), atol=1e-12)


def test_hadamard_is_orthogonal():
    scipy_linalg = pytest.importorskip("scipy.linalg")
    for size in (1, 2, 64, 1024):  # below and above the block of near neighbours
        rows = np.eye(size)
        np.testing.assert_allclose(hadamard(rows), scipy_linalg.hadamard(size) / size**0.5, atol=1e-12)
        np.testing.assert_array_equal(rows, np.eye(size))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_spread_keeps_lengths_and_angles(codes, shape):
    x = spread(codes, VARIANCES, shape)
    assert x.shape == (len(codes), *shape)
    flat = x.reshape(len(codes), -1)
    np.testing.assert_allclose(flat @ flat.T, codes @ codes.T, atol=1e-12)


@pytest.mark.parametrize("axes", [1, 5, 64, 200])
@pytest.mark.parametrize("shape", [(4, 32, 32), (1, 64, 64), (16, 16, 16), (3, 20, 9), (2, 13, 30)])
def test_spread_is_orthogonal_for_few_and_many_axes(axes, shape):
    """An axis may have hardly any variance."""
    variances = 0.9 ** np.arange(axes)
    basis = spread(np.eye(axes), variances / variances.sum(), shape).reshape(axes, -1)
    np.testing.assert_allclose(basis @ basis.T, np.eye(axes), atol=1e-12)


@pytest.mark.parametrize("size", [256, 257, 511, 512, 513, 4032, 6144])
def test_scatter_is_orthogonal(size):
    basis = scatter(np.eye(256), size)
    np.testing.assert_allclose(basis @ basis.T, np.eye(256), atol=1e-12)


def test_what_large_latents_need_is_not_kept(codes, monkeypatch):
    """A video's would take hundreds of megabytes. The bits are the same."""
    kept = scatter(codes, 1000)
    monkeypatch.setattr(orthogonal_map, "LARGEST_KEPT", 999)
    before = orthogonal_map._kept_scattering.cache_info()
    assert np.array_equal(scatter(codes, 1000), kept)
    assert orthogonal_map._kept_scattering.cache_info() == before


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_is_spread_is_like_noise(codes, shape):
    """The limits are at least four standard deviations of as many draws from N(0, I)."""
    x = spread(codes, VARIANCES, shape) * np.sqrt(np.prod(shape))
    elements = x.size
    power = spatial_power(x)
    assert 0.6 < power[0] < 1.5 and np.abs(power[1:3] - 1).max(initial=0) < 0.25
    assert np.abs(power[3:] - 1).max(initial=0) < 0.2
    assert abs((x**4).mean() / (x**2).mean() ** 2 - 3) < 4 * (24 / elements) ** 0.5 + 0.02
    for pairs in ((x[..., :-1], x[..., 1:]), (x[..., :-1, :], x[..., 1:, :]), (x[:, :-1], x[:, 1:])):
        if pairs[0].size:
            assert np.abs(correlation(*pairs)).max() < 4 * (len(codes) / pairs[0].size) ** 0.5 + 0.02
    # no place is louder than others, for all voices together: chi squared of 12 draws
    loudness = (x**2).mean(axis=0)
    assert loudness.max() < 5 and loudness.std() == pytest.approx((2 / 12) ** 0.5, rel=0.15)


def test_a_shape_that_is_too_small_for_a_code_is_refused(codes):
    with pytest.raises(ValueError, match=r"\[4, 8, 8\] hold at most 240 axes, not 256"):
        spread(codes, VARIANCES, (4, 8, 8))


def squares(x: np.ndarray) -> np.ndarray:
    """Compute means of [B, C, H, W] over 4 x 4 squares of each channel, times their side: N(0, 1) for noise."""
    batch, channels, height, width = x.shape
    cells = x.reshape(batch, channels, 4, height // 4, 4, width // 4)
    return cells.mean(axis=(3, 5)) * np.sqrt(height * width / 16)


@pytest.mark.parametrize("axes", [3, 64, 256])
def test_the_lowest_frequencies_are_white(axes):
    """They are independent numbers of unit variance; if there are few axes, only their total variance is right."""
    variances = np.linspace(4, 1, axes) / np.linspace(4, 1, axes).sum()
    basis = spread(np.diag(np.sqrt(variances)), variances, (4, 32, 32)) * 64  # what each axis brings
    low = squares(basis).reshape(axes, 64)
    np.testing.assert_allclose((low**2).sum(), 64, rtol=1e-9)
    if axes >= 64:
        np.testing.assert_allclose(low.T @ low, np.eye(64), atol=1e-9)


@pytest.mark.parametrize("shape", [(4, 32, 32), (4, 64, 64), (4, 96, 64), (4, 40, 24)], ids=str)
def test_the_lowest_frequencies_depend_on_the_first_axes_alone(shape):
    """The last channel depends on the very first ones, which change least when a recording changes."""
    low = squares(spread(np.eye(80, AXES), np.full(AXES, 1 / AXES), shape))
    decides = (np.abs(low).max(axis=(2, 3)) > 1e-9).nonzero()
    assert decides[0].tolist() == list(range(64)) and decides[1].tolist() == [3] * 16 + [2] * 16 + [1] * 16 + [0] * 16


@pytest.mark.parametrize("shape", [(16, 64, 64), (32, 32, 32), (128, 16, 16)], ids=str)
def test_the_lowest_frequencies_of_many_channels_share_the_first_axes(shape):
    low = squares(spread(np.eye(AXES)[::16], np.full(AXES, 1 / AXES), shape))  # axes 0, 16, 32, ...
    assert (np.abs(low[:4]).max(axis=(2, 3)) > 1e-9).sum(axis=1).tolist() == [shape[0] // 4] * 4
    assert np.abs(low[4:]).max() < 1e-9


def test_spread_never_changes():
    """The numbers are frozen: no new version of NumPy or of this code may give a voice another image."""
    basis = spread(np.eye(2, 128), np.full(128, 1 / 128), (4, 32, 32))
    np.testing.assert_allclose(basis[0].ravel()[:4] * 64, FROZEN, atol=1e-7)


@pytest.mark.parametrize("shape", FROZEN_SHA256, ids=str)
def test_every_element_keeps_its_bits(shape):
    """The numbers of the code are exact in binary, so that it is the same on every machine."""
    code = (np.arange(AXES) * 37 % 101 - 50)[None] / 64
    x = spread(code, np.full(AXES, 1 / AXES), shape)
    assert hashlib.sha256(x.astype("<f8").tobytes()).hexdigest()[:16] == FROZEN_SHA256[shape]


def test_named_numbers_come_back_from_the_means_of_squares():
    rng = np.random.default_rng(8)
    named, codes = rng.standard_normal((5, 10)), rng.standard_normal((5, 100))
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    noise = spread(*with_named(named, codes, np.ones(100), (4, 32, 32)), (4, 32, 32)) * 64
    means = noise.reshape(5, 4, 4, 8, 4, 8).mean(axis=(3, 5)).reshape(5, 4, 16) * 8
    np.testing.assert_allclose(leading_numbers(means)[:, -1, :10], named, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(noise.reshape(5, -1), axis=1), 64)


@pytest.mark.parametrize("shape", [(3, 2, 2), (1, 8, 16), (4, 8, 8), (16, 24, 40)], ids=str)
def test_named_numbers_leave_lengths_alone(shape):
    rng = np.random.default_rng(9)
    codes = rng.standard_normal((3, 40))
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    all_codes, variances = with_named(3 * rng.standard_normal((3, 10)), codes, np.ones(40), shape)
    np.testing.assert_allclose(np.linalg.norm(all_codes, axis=1), 1)
    assert (variances > 0).all() and np.isfinite(spread(all_codes, variances, shape)).all()


@pytest.mark.parametrize("shape", [*SHAPES, (4, 83, 61), (4, 8, 8)], ids=str)
def test_the_part_of_named_numbers_is_theirs_alone(codes, shape):
    """The same named numbers have the same part, whatever else a latent holds; without them it is nothing."""
    named = np.random.default_rng(3).standard_normal((1, 10))
    one, other, none = (
        spread(*with_named(numbers, code[None, :100], VARIANCES[:100] / VARIANCES[:100].sum(), shape), shape)[0]
        for numbers, code in ((named, codes[0]), (named, codes[1]), (0 * named, codes[0]))
    )
    part = named_part(one, 10)
    np.testing.assert_allclose(named_part(other, 10), part, atol=1e-3 * np.abs(part).max())
    np.testing.assert_allclose(named_part(none, 10), 0, atol=1e-12)
    np.testing.assert_allclose(named_part(part, 10), part, atol=1e-12)
    assert np.abs((part * (one - part)).sum()) < 1e-12
