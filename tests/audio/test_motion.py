"""Loudness and spectral flux against the standard's figures, scipy and librosa."""

from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
from scipy import signal

import config
from audio.features import load_audio
from audio.motion import BANDS, FRAME, K_HIGH_PASS, K_RATE, K_SHELF, RATE, SILENCE, k_weighting, measure_motion
from audio.sound import AudioError

VOICE = config.EXAMPLES_DIR / "voice_it.wav"
RATE_OF_RECIPE = config.RECIPE.sample_rate


def written(path: Path, samples: np.ndarray, rate: int = RATE_OF_RECIPE) -> Path:
    soundfile.write(path, samples, rate, "FLOAT")
    return path


def test_a_sine_of_full_scale_has_the_loudness_that_the_standard_says(tmp_path):
    """BS.1770-4: 0 dB full scale at 997 Hz in one channel is −3.01 LKFS."""
    time = np.arange(RATE_OF_RECIPE) / RATE_OF_RECIPE
    found = measure_motion(written(tmp_path / "a.wav", np.sin(2 * np.pi * 997 * time)))
    assert len(found.loudness) == 100 and found.loudness[10:90] == pytest.approx(-3.01, abs=0.05)
    softer = measure_motion(written(tmp_path / "b.wav", 0.01 * np.sin(2 * np.pi * 997 * time)))
    assert softer.loudness[10:90] == pytest.approx(-43.01, abs=0.05)


def test_the_weighting_is_that_of_the_filters():
    hertz = np.array([20.0, 60, 200, 1000, 2500, 10_000])
    (_, shelf), (_, high_pass) = (signal.freqz(*one, worN=hertz, fs=K_RATE) for one in (K_SHELF, K_HIGH_PASS))
    assert k_weighting(hertz) == pytest.approx(np.abs(shelf * high_pass) ** 2, rel=1e-9)


def test_the_flux_is_that_of_librosa():
    samples = load_audio(VOICE).samples
    found = measure_motion(VOICE)
    count = len(found.flux)
    assert count == int(np.ceil(len(samples) / RATE_OF_RECIPE * RATE))
    padded = np.pad(samples, FRAME)
    begins = [round(i * RATE_OF_RECIPE / RATE) + FRAME // 2 for i in range(count)]
    spectra = np.stack([np.fft.rfft(padded[b : b + FRAME] * signal.get_window("hann", FRAME)) for b in begins])
    bank = librosa.filters.mel(sr=RATE_OF_RECIPE, n_fft=FRAME, n_mels=BANDS)
    amplitude = np.sqrt((np.abs(spectra) * 4 / FRAME) ** 2 @ (bank / bank.max(axis=1, keepdims=True)).T)
    expected = librosa.onset.onset_strength(S=np.log10(1 + 1000 * amplitude.T), sr=RATE_OF_RECIPE, center=False)
    assert found.flux == pytest.approx(expected, abs=1e-4) and found.flux.max() > 0.1


def test_clicks_are_where_they_were_made(tmp_path):
    samples = np.zeros(3 * 8_000, np.float32)
    for time in (0.5, 1.25, 2.0):
        samples[round(8_000 * time)] = 1
    found = measure_motion(written(tmp_path / "a.wav", samples, 8_000))
    loud, rising = np.argsort(found.loudness)[-30:], np.sort(np.argsort(found.flux)[-3:])
    assert {round(time / RATE, 1) for time in loud} >= {0.5, 2.0}
    assert rising / RATE == pytest.approx([0.5, 1.25, 2.0], abs=0.03)
    assert found.loudness[np.round(RATE * np.array([0.5, 1.25, 2])).astype(int)].min() > -60
    assert found.loudness[[0, 100, 299]] == pytest.approx(SILENCE)


def test_faint_noise_moves_less_than_a_voice(tmp_path):
    noise = np.random.default_rng(0).normal(0, 10 ** (-70 / 20), 2 * RATE_OF_RECIPE)
    assert measure_motion(written(tmp_path / "a.wav", noise)).flux.mean() < 0.2 * measure_motion(VOICE).flux.mean()


def test_the_measures_do_not_depend_on_where_blocks_end(tmp_path, monkeypatch):
    samples, rate = soundfile.read(VOICE)
    path = written(tmp_path / "a.wav", np.resize(samples, 4 * rate), rate)
    whole = measure_motion(path)
    monkeypatch.setattr("audio.decoding.READ_BLOCK", 777)
    cut = measure_motion(path)
    assert (whole.loudness == cut.loudness).all() and (whole.flux == cut.flux).all() and len(whole.flux) == 400


def test_a_disturbance_is_taken_off_first(tmp_path):
    samples, rate = soundfile.read(VOICE)
    clean = measure_motion(written(tmp_path / "a.wav", samples, rate))
    shifted = measure_motion(written(tmp_path / "b.wav", samples + 0.4, rate))
    assert shifted.flux == pytest.approx(clean.flux, abs=0.02) and len(clean.flux) == len(shifted.flux)


def test_silence_has_no_flux_and_what_is_no_sound_is_refused(tmp_path):
    found = measure_motion(written(tmp_path / "a.wav", np.zeros(8_000), 8_000))
    assert (found.loudness == SILENCE).all() and (found.flux == 0).all() and len(found.flux) == 100
    (tmp_path / "b.wav").write_text("no sound")
    with pytest.raises(AudioError, match="b.wav: not a recording"):
        measure_motion(tmp_path / "b.wav")
