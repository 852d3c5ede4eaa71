"""Whitened voices are Gaussian to a sampler and differ from each other, on recordings outside the calibration."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import config
from audio import embedding, whitening
from audio.calibration import Calibration
from audio.features import load_audio, log_mel_vector
from audio.gaussianity import examine, is_gaussian, spatial_power
from audio.initial_noise import mix_with_noise
from audio.orthogonal_map import capacity, with_named
from audio.qualities import Heard
from audio.whitening import Whitening, own_share

EXAMPLES = sorted(p for p in config.EXAMPLES_DIR.iterdir() if p.suffix in (".wav", ".ogg"))
RATE = config.RECIPE.sample_rate
FROZEN_SHA256 = "6a99b6bf3d0df0b525be351db804c5a785ff21d115fb1c87567dda4e481e550b"
SHAPES = [
    (4, 32, 32),
    (4, 64, 64),
    (4, 96, 64),
    (4, 128, 128),
    (16, 128, 128),
    (32, 32, 32),
    (4, 40, 24),
    (128, 8, 8),
]


@pytest.fixture(scope="module")
def builtin() -> Whitening:
    return Whitening.load(config.BUILTIN_CALIBRATION_DIR / "whitening.npz")


def latents_of(sounds: list[np.ndarray]) -> np.ndarray:
    """Make plain z-scores [B, 4, 32, 32], as process_live_audio.py writes them."""
    calibration = Calibration.load(config.BUILTIN_CALIBRATION_DIR)
    return np.stack([calibration.z_score(log_mel_vector(sound)) for sound in sounds]).reshape(-1, 4, 32, 32)


@pytest.fixture(scope="module")
def sounds() -> list[np.ndarray]:
    return [load_audio(path).samples for path in EXAMPLES]


@pytest.fixture(scope="module")
def voices(sounds) -> np.ndarray:
    return latents_of(sounds)


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(7).standard_normal((2000, 4, 32, 32), dtype=np.float32)


def with_noise(sound: np.ndarray, snr_db: float) -> np.ndarray:
    hiss = np.random.default_rng(3).standard_normal(sound.size) * np.sqrt((sound.astype(float) ** 2).mean())
    return (sound + hiss * 10 ** (-snr_db / 20)).astype(np.float32)


# change of the recording, least mean cosine (150 recordings that the calibration never saw: .99, .98, .97, .97, 1.00)
CHANGES = {
    "20 dB SNR": (lambda sound: with_noise(sound, 20), 0.97),
    "10 dB SNR": (lambda sound: with_noise(sound, 10), 0.93),
    "50 ms later": (lambda sound: np.pad(sound, (RATE // 20, 0)), 0.90),
    "300 ms of silence around": (lambda sound: np.pad(sound, 3 * RATE // 10), 0.90),
    "a quarter as loud": (lambda sound: sound / 4, 0.999),
}


@pytest.mark.parametrize(("change", "least"), CHANGES.values(), ids=CHANGES)
def test_the_same_recording_is_found_again(builtin, sounds, voices, change, least):
    codes, changed = (
        builtin.whiten(latents).reshape(len(sounds), -1) / 64
        for latents in (voices, latents_of([change(sound) for sound in sounds]))
    )
    cosines = changed @ codes.T
    assert (cosines.argmax(axis=1) == np.arange(len(sounds))).all()
    assert np.diag(cosines).mean() > least


def test_the_lowest_frequencies_change_least(builtin, sounds, voices):
    """They decide the composition of an image."""
    later, around = CHANGES["50 ms later"][0], CHANGES["300 ms of silence around"][0]
    for change in (later, around):
        known, changed = (builtin.whiten(x) for x in (voices, latents_of([change(sound) for sound in sounds])))
        lost = [
            ((a - b) ** 2).mean() / (a**2).mean() for a, b in ((known, changed), (squares(known), squares(changed)))
        ]
        last = ((squares(known) - squares(changed))[:, 3] ** 2).mean()
        assert last < lost[1] < lost[0]


def test_raw_z_scores_do_not_withstand_noise(sounds, voices):
    """Whitening is needed because noise at 10 dB SNR turns the raw z-score of a voice into another direction."""
    flat, noisy = (z.reshape(len(z), -1) for z in (voices, latents_of([with_noise(s, 10) for s in sounds])))
    cosines = (flat * noisy).sum(axis=1) / np.linalg.norm(flat, axis=1) / np.linalg.norm(noisy, axis=1)
    assert cosines.mean() < 0.5


def test_different_recordings_point_elsewhere(builtin, voices):
    codes = builtin.whiten(voices).reshape(len(voices), -1) / 64
    cosines = np.abs(codes @ codes.T)[np.triu_indices(len(voices), 1)]
    assert np.median(cosines) < 0.15 and cosines.max() < 0.5


@pytest.mark.parametrize("strength", [0.5, 0.9, 1.0])
def test_looks_gaussian_to_a_sampler(builtin, voices, noise, strength):
    x_T = mix_with_noise(builtin.whiten(voices), noise[: len(voices)], strength)
    assert x_T.shape == voices.shape and x_T.dtype == np.float32
    assert is_gaussian(x_T).all() and not is_gaussian(voices).any()
    power = np.abs(np.fft.fft2(x_T)) ** 2 / 1024  # 1 at every frequency for N(0, I)
    frequency = np.fft.fftfreq(32, 1 / 32)
    radius = np.rint(np.hypot(frequency[:, None], frequency)).astype(int)
    for low, high in ((0, 3), (4, 7), (8, 11), (12, 16)):
        assert 0.8 < power[..., (radius >= low) & (radius <= high)].mean() < 1.25
    assert 2.7 < (x_T**4).mean() / (x_T**2).mean() ** 2 < 3.3


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_noise_of_any_shape(builtin, sounds, voices, shape):
    """Voices are as far apart as their codes, hardly change with noise, and are like noise to a sampler."""
    latents = np.concatenate((voices, latents_of([with_noise(sound, 20) for sound in sounds[:3]])))
    both = builtin.whiten(latents, shape)
    assert both.shape == (len(voices) + 3, *shape) and both.dtype == np.float32
    assert is_gaussian(both).all()
    flat = both.reshape(len(both), -1) / np.sqrt(np.prod(shape))
    np.testing.assert_allclose(np.linalg.norm(flat, axis=1), 1, rtol=1e-5)
    named, others, variances = builtin.codes(latents)
    codes, usual = (with_named(named, others, variances, one)[0] for one in (shape, (4, 32, 32)))
    np.testing.assert_allclose(flat @ flat.T, codes @ codes.T, atol=1e-5)
    # the means of squares, which the named qualities are, have a part of the length that depends on the shape; it moves
    # an inner product by its square at most, and the product of the other numbers by as much
    named_part = max((x[:, : named.shape[1]] ** 2).sum(axis=1).max() for x in (codes, usual))
    assert named_part < 0.05
    np.testing.assert_allclose(flat @ flat.T, usual @ usual.T, atol=2 * named_part)
    cosines = flat[: len(voices)] @ flat[: len(voices)].T
    assert np.median(np.abs(cosines[np.triu_indices(len(voices), 1)])) < 0.15
    assert (flat[:3] * flat[len(voices) :]).sum(axis=1).min() > 0.9
    power = spatial_power(both[: len(voices)])
    assert power[:4].min() > 0.5 and power[:4].max() < 1.6 and np.abs(power[4:] - 1).max() < 0.25
    found = [examine(latent) for latent in both]
    assert max(abs(one.kurtosis - 3) for one in found) < 0.3
    limit = 5 * (shape[1] * shape[2]) ** -0.5  # the largest of all pairs of channels
    assert max(one.channels for one in found) < limit


@pytest.mark.parametrize("shape", [(4, 8, 8), (1, 8, 16), (3, 2, 2)], ids=str)
def test_very_small_latents_hold_the_leading_axes(builtin, voices, shape):
    x = builtin.whiten(voices, shape).reshape(len(voices), -1).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), np.prod(shape) ** 0.5, rtol=1e-5)
    named, others, variances = builtin.codes(voices)
    codes, variances = with_named(named, others, variances, shape)
    assert codes.shape[1] == min(capacity(shape), named.shape[1] + others.shape[1])
    assert variances.sum() == pytest.approx(1, abs=0.51)
    np.testing.assert_allclose(x @ x.T / np.prod(shape), codes @ codes.T, atol=1e-5)


def test_latents_of_single_elements_are_refused(builtin, voices):
    with pytest.raises(ValueError, match=r"latents of \[4, 1, 1\] hold at most 0 axes"):
        builtin.whiten(voices, (4, 1, 1))


def test_bits_are_those_of_the_first_version(builtin):
    """The bits are frozen: another x_T of the same latents would be another image of the same voice."""
    decibels = np.clip(-40 + 1000 * builtin.components[[0, 3, 60, 255]].astype(np.float64), -80, 0)
    latents = ((decibels - builtin.mean_db) / builtin.std_db).astype(np.float32).reshape(-1, 4, 32, 32)
    assert hashlib.sha256(builtin.whiten(latents).astype("<f4").tobytes()).hexdigest() == FROZEN_SHA256


def test_fits_only_what_its_statistics_made(builtin, voices, noise):
    other = replace(builtin, mean_db=builtin.mean_db + 10)
    assert builtin.fits(voices).all()
    assert not other.fits(voices).any()
    assert not builtin.fits(noise[:10]).any()


def test_other_sizes_than_that_of_the_embedding_do_without_it(spectrograms):
    fitted = Whitening.fit(spectrograms, np.zeros(256), np.ones(256), axes=16)
    latents = spectrograms[:5].reshape(5, 1, 16, 16)
    named, others, parts = fitted.codes(latents)
    assert embedding.builtin().size == 64 and fitted.spectrogram_size == 16
    np.testing.assert_array_equal(named, fitted.qualities(fitted.measure(fitted.stretch(spectrograms[:5]))))
    np.testing.assert_array_equal(others, fitted.embed(fitted.align(spectrograms[:5])))
    np.testing.assert_allclose(parts, fitted.scales / fitted.scales.sum(), rtol=1e-6)


def test_the_embedding_has_its_part_of_the_variance(builtin, voices):
    _, others, parts = builtin.codes(voices)
    numbers = len(embedding.builtin().shares)
    assert others.shape[1] == len(parts) == numbers + len(builtin.scales)
    np.testing.assert_allclose((others[:, :numbers] ** 2).sum(axis=1), whitening.EMBEDDED)
    np.testing.assert_allclose([parts[:numbers].sum(), parts.sum()], [whitening.EMBEDDED, 1], rtol=1e-6)


def test_the_same_bits_alone_and_in_a_batch(builtin, voices):
    together = builtin.whiten(voices)
    for index in range(len(voices)):
        np.testing.assert_array_equal(builtin.whiten(voices[index : index + 1])[0], together[index])


def test_does_not_depend_on_the_statistics_of_the_z_score(builtin, voices):
    """The same spectrogram gives the same x_T, whichever mean and std the z-score was made with."""
    decibels = builtin.to_decibels(voices)
    other = replace(builtin, mean_db=np.full(4096, -30, np.float32), std_db=np.full(4096, 7, np.float32))
    again = ((decibels + 30) / 7).reshape(voices.shape)
    np.testing.assert_allclose(other.whiten(again), builtin.whiten(voices), atol=1e-2)


@pytest.mark.parametrize("level", [-80.0, -40.0, 0.0])
def test_flat_spectrograms_do_not_divide_by_zero(builtin, level):
    flat = ((level - builtin.mean_db) / builtin.std_db).reshape(1, 4, 32, 32)
    assert np.linalg.norm(builtin.whiten(flat)) == pytest.approx(64, rel=1e-5)


def test_the_mean_voice_does_not_divide_by_zero(builtin):
    exact = replace(builtin, centre_db=builtin.align(np.full((1, 4096), -40.0))[0].astype(np.float32))
    flat = ((-40 - builtin.mean_db.astype(float)) / builtin.std_db).reshape(1, 4, 32, 32)
    assert np.linalg.norm(exact.whiten(flat)) == pytest.approx(64, rel=1e-5)


@pytest.mark.parametrize(("first", "last"), [(0, 63), (10, 40), (5, 6), (30, 30), (63, 63)])
def test_align_stretches_the_voice_from_edge_to_edge(builtin, first, last):
    """At either end 3 % of the energy are cut off; a short sound blends with half a column."""
    spectrogram = np.full((64, 64), -70.0)
    spectrogram[20, first : last + 1] = -5
    aligned = builtin.align(spectrogram.reshape(1, -1)).reshape(64, 64)
    assert (np.delete(aligned, 20, axis=0) == -builtin.floor_db).all()
    assert aligned[20].max() > -1 and aligned[20].mean() > -20
    assert (aligned[20, 16:48] == 0).all() or last == first


def test_align_hardly_moves_when_noise_lifts_the_pauses(builtin, sounds):
    """A threshold on single columns would do so: with one more column above it, the whole is stretched differently."""
    spectrogram = builtin.to_decibels(latents_of(sounds[:1])).reshape(64, 64)
    noisy = np.maximum(
        spectrogram, spectrogram.max() - builtin.floor_db + np.random.default_rng(1).uniform(-9, 1, (64, 64))
    )
    one, other = builtin.align(np.stack([spectrogram, noisy]))
    assert np.corrcoef(one, other)[0, 1] > 0.9


def squares(x: np.ndarray) -> np.ndarray:
    """Compute means of [B, 4, 32, 32] over 4 x 4 squares of each channel, times 8: N(0, 1) for noise."""
    return x.reshape(-1, 4, 4, 8, 4, 8).mean(axis=(3, 5)) * 8


# --- fitting ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def spectrograms() -> np.ndarray:
    """Make 200 small spectrograms in dB [200, 256] that vary along five axes, above the floor in every column."""
    random = np.random.default_rng(2)
    axes = np.linalg.qr(random.standard_normal((256, 5)))[0]
    decibels = -12 + (random.standard_normal((200, 5)) * [16, 12, 8, 6, 4]) @ axes.T
    decibels[:, ::37] = 0  # the loudest cells, the same in all
    return decibels.clip(-20, 0)


@pytest.fixture(params=[1024, 0], ids=["few", "many"])
def way(request, monkeypatch) -> int:
    """Fit by the rows of few recordings, and by the covariance of many."""
    monkeypatch.setattr(whitening, "FEW_ROWS", request.param)
    return request.param


def test_few_and_many_recordings_are_fitted_alike(monkeypatch):
    """Whether their rows or a covariance are kept makes no difference to what is stored."""
    random = np.random.default_rng(3)
    vectors = -20 + 6 * random.standard_normal((150, 256)).cumsum(axis=1) / 8
    fitted = []
    for few in (1024, 0):
        monkeypatch.setattr(whitening, "FEW_ROWS", few)
        prior = Whitening.fit(vectors[100:], np.zeros(256), np.ones(256), axes=30)
        fitted.append(Whitening.fit(vectors[:100], np.zeros(256), np.ones(256), axes=40, prior=prior))
    for name in ("centre_db", "scales", "components"):
        few, many = (getattr(one, name).astype(float) for one in fitted)
        np.testing.assert_allclose(few, many, rtol=1e-6, atol=1e-4 if name == "components" else 0)  # of float16
    assert (fitted[0].components != fitted[1].components).mean() < 1e-3


def test_fit_finds_the_principal_axes(spectrograms, way):
    fitted = Whitening.fit(spectrograms, spectrograms.mean(axis=0), np.full(256, 3.0), axes=5)
    aligned = fitted.align(spectrograms)
    np.testing.assert_allclose(fitted.centre_db, aligned.mean(axis=0), atol=1e-4)
    _, values, rows = np.linalg.svd(aligned - aligned.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(fitted.scales, values[:5] / 200**0.5, rtol=1e-3)
    np.testing.assert_allclose(np.abs((fitted.components.astype(float) * rows[:5]).sum(axis=1)), 1, atol=1e-3)
    largest = np.abs(fitted.components).argmax(axis=1)
    assert (fitted.components[np.arange(5), largest] > 0).all()
    coefficients = (aligned - fitted.centre_db) @ fitted.components.astype(float).T
    np.testing.assert_allclose(np.cov((coefficients / fitted.scales).T, ddof=0), np.eye(5), atol=0.01)
    tapered = coefficients / fitted.scales**0.5
    np.testing.assert_allclose(
        fitted.embed(aligned), tapered / np.linalg.norm(tapered, axis=1, keepdims=True), atol=1e-6
    )


@pytest.mark.parametrize(("rows", "axes"), [(2, 1), (7, 6), (40, 16), (200, 16)])
def test_few_recordings_have_few_axes(spectrograms, rows, axes, way):
    fitted = Whitening.fit(spectrograms[:rows], np.zeros(256), np.ones(256), axes=16)
    assert len(fitted.scales) == axes
    x_T = fitted.whiten(spectrograms[:rows].reshape(rows, 1, 16, 16))
    np.testing.assert_allclose(np.linalg.norm(x_T.reshape(rows, -1), axis=1), 16, rtol=1e-5)


def test_of_very_many_recordings_some_tell_the_places_of_qualities(spectrograms, monkeypatch):
    """They are evenly spaced, and those of which the pitch was heard."""
    heard = [Heard(1.0, 100.0 + row, 0.5) for row in range(200)]
    few = Whitening.fit(spectrograms[::4], np.zeros(256), np.ones(256), axes=5, heard=heard[::4])
    monkeypatch.setattr(whitening, "MEASURED", 50)
    many = Whitening.fit(spectrograms, np.zeros(256), np.ones(256), axes=5, heard=heard)
    for name in ("means", "deviations", "places", "decorrelation"):
        np.testing.assert_array_equal(getattr(many.qualities, name), getattr(few.qualities, name))
    assert not np.array_equal(many.centre_db, few.centre_db)


def test_fit_of_recordings_that_are_all_the_same(spectrograms, way):
    same = np.repeat(spectrograms[:1], 8, axis=0)
    fitted = Whitening.fit(same, np.zeros(256), np.ones(256), axes=4)
    assert np.isfinite(fitted.whiten(same.reshape(8, 1, 16, 16))).all()


def test_save_and_load(tmp_path, builtin, voices):
    builtin.save(tmp_path / "w.npz")
    again = Whitening.load(tmp_path / "w.npz")
    assert (again.floor_db, again.edge_share, again.top_db) == (30, 0.03, 80)
    np.testing.assert_array_equal(again.whiten(voices), builtin.whiten(voices))


def test_a_whitening_that_is_not_there_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        Whitening.load(tmp_path / "w.npz")


@pytest.mark.parametrize(
    "spoil", ["text", "empty", "truncated", "missing", "shape", "nan", "pickle", "zero std", "floor", "edges"]
)
def test_broken_files_are_refused(tmp_path, builtin, spoil):
    path = tmp_path / "w.npz"
    builtin.save(path)
    arrays = dict(np.load(path))
    changes: dict[str, dict[str, Any]] = {
        "missing": {"scales": None},
        "shape": {"scales": np.ones(3, np.float32)},
        "nan": {"centre_db": np.full(4096, np.nan, np.float32)},
        "pickle": {"scales": np.array([{}], dtype=object)},
        "floor": {"floor_db": np.float64(0)},
        "edges": {"edge_share": np.float64(np.nan)},
        "zero std": {"std_db": np.zeros(4096, np.float32)},
    }
    if spoil in changes:
        np.savez(path, **{k: v for k, v in (arrays | changes[spoil]).items() if v is not None})
    else:
        path.write_bytes({"text": b"hello", "empty": b"", "truncated": path.read_bytes()[:5000]}[spoil])
    with pytest.raises(ValueError, match="w.npz is not a whitening") as caught:
        Whitening.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_files_are_refused_or_harmless(tmp_path, builtin, seed):
    path = tmp_path / "w.npz"
    replace(builtin, components=builtin.components[:4], scales=builtin.scales[:4]).save(path)
    content, random = bytearray(path.read_bytes()), np.random.default_rng(seed)
    for where in random.integers(len(content), size=30):
        content[where] = random.integers(256)
    path.write_bytes(content)
    try:
        Whitening.load(path)
    except ValueError as error:
        assert "is not a whitening" in str(error)


@pytest.mark.parametrize("latents", [np.zeros((1, 4, 32, 31)), np.full((1, 4, 32, 32), np.nan)], ids=["shape", "nan"])
def test_bad_latents_are_refused(builtin, latents):
    with pytest.raises(ValueError, match="latents"):
        builtin.whiten(latents)


def test_import_needs_numpy_alone():
    code = (
        "import sys, audio.whitening, audio.initial_noise, audio.provenance, audio.gaussianity; "
        "print(sorted({'cv2', 'librosa', 'scipy', 'soundfile', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], cwd=config.REPO_DIR, text=True).strip() == "[]"


def test_few_recordings_are_mixed_with_the_prior(spectrograms, way):
    """Centre and covariance are those of 50 recordings more, made by the prior."""
    mean, std = np.zeros(256), np.ones(256)
    prior = Whitening.fit(spectrograms[100:] - 3, mean, std, axes=60)
    own = Whitening.fit(spectrograms[:100], mean, std, axes=60, prior=prior)
    share = own_share(100, 60)
    assert share == pytest.approx(100 / 150)
    aligned = own.align(spectrograms[:100])
    rows = prior.components.astype(float) * prior.scales[:, None]
    apart = aligned.mean(axis=0) - prior.centre_db
    wanted = share * np.cov(aligned.T, ddof=0) + (1 - share) * rows.T @ rows
    wanted += share * (1 - share) * np.outer(apart, apart)
    np.testing.assert_allclose(own.scales[:20] ** 2, np.linalg.eigvalsh(wanted)[::-1][:20], rtol=1e-3)
    np.testing.assert_allclose(own.centre_db, share * aligned.mean(axis=0) + (1 - share) * prior.centre_db, atol=1e-4)
    alone = Whitening.fit(spectrograms, mean, std, axes=16)
    again = Whitening.fit(spectrograms, mean, std, axes=16, prior=prior)
    np.testing.assert_array_equal(alone.components, again.components)  # enough recordings: the prior has no say


@pytest.mark.parametrize(("elements", "axes"), [(8, 1), (16, 17)])
def test_a_whitening_of_impossible_size_is_refused(elements, axes):
    per_element = np.ones(elements, np.float32)
    with pytest.raises(ValueError, match="power of 4"):
        Whitening(
            per_element, per_element, per_element, np.ones((axes, elements), np.float16), np.ones(axes, np.float32)
        )


def test_a_prior_of_another_size_is_left_out():
    rows = np.random.default_rng(0).uniform(-80, 0, (10, 16)).astype(np.float32)
    mean, std = np.zeros(16, np.float32), np.ones(16, np.float32)
    other = Whitening(*(np.ones(4, np.float32),) * 3, np.ones((1, 4), np.float16), np.ones(1, np.float32))
    alone, with_other = (Whitening.fit(rows, mean, std, axes=3, prior=prior) for prior in (None, other))
    assert np.array_equal(alone.components, with_other.components)
