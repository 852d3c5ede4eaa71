"""The recipe against librosa and OpenCV, and files that are not recordings."""

import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import soundfile

from audio import decoding, features
from audio.features import AudioError, extract, load_audio, log_mel_vector
from audio.recipe import Recipe
from config import REPO_DIR
from tests.recordings import BAD, EXAMPLES, RATE, speech, write_bad


def reference(path: Path) -> np.ndarray:
    """Make a vector with the libraries that the recipe is defined by."""
    librosa = pytest.importorskip("librosa")
    samples, rate = librosa.load(path)
    power = librosa.feature.melspectrogram(y=samples, sr=rate, n_mels=64)
    return cv2.resize(librosa.power_to_db(power, ref=np.max), (64, 64), interpolation=cv2.INTER_AREA).reshape(-1)


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_equals_librosa_on_recordings(path):
    vector = extract(path, trim=False).vector
    assert vector.shape == (4096,) and vector.dtype == np.float32
    np.testing.assert_allclose(vector, reference(path), rtol=0, atol=1e-3)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 192_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_equals_librosa_at_every_rate(tmp_path, rate, channels):
    one = speech(0.7, rate)
    sound = np.stack([np.roll(one, 1000 * c) for c in range(channels)], axis=1)
    soundfile.write(tmp_path / "sound.wav", sound, rate, subtype="FLOAT")
    np.testing.assert_allclose(
        extract(tmp_path / "sound.wav", trim=False).vector, reference(tmp_path / "sound.wav"), rtol=0, atol=1e-3
    )


def test_nothing_is_silenced_in_place_of_an_mp3_that_has_the_descriptor_of_standard_error(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "sound.mp3", speech(0.7, RATE), RATE)
    expected = extract(tmp_path / "sound.mp3").vector
    silenced: list[int] = []
    monkeypatch.setattr(decoding.os, "dup2", lambda _, number: silenced.append(number))
    monkeypatch.setattr(sys, "stderr", None)  # as Python begins where the shell has closed it
    np.testing.assert_array_equal(extract(tmp_path / "sound.mp3").vector, expected)
    assert silenced == []


@pytest.mark.parametrize("seconds", [0.1, 1.0, 60.0])  # one and many blocks of frames, fewer and more than 64 columns
def test_equals_librosa_at_every_length(tmp_path, seconds):
    soundfile.write(tmp_path / "sound.flac", speech(seconds, RATE), RATE)
    np.testing.assert_allclose(
        extract(tmp_path / "sound.flac", trim=False).vector, reference(tmp_path / "sound.flac"), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize(
    "recipe", [Recipe(), Recipe(sample_rate=16_000, n_mels=40, n_fft=1024), Recipe(1_500, n_mels=8)]
)
def test_filterbank_equals_librosa(recipe):
    librosa = pytest.importorskip("librosa")
    wanted = librosa.filters.mel(sr=recipe.sample_rate, n_fft=recipe.n_fft, n_mels=recipe.n_mels)
    np.testing.assert_allclose(features.mel_filterbank(recipe), wanted, rtol=1e-5, atol=1e-9)


def test_rows_are_mel_bands_and_columns_time():
    """A tone that begins low and ends high is in the top left and the bottom right of the spectrogram."""
    time = np.arange(RATE) / RATE
    tones = np.where(time < 0.5, np.sin(2 * np.pi * 300 * time), np.sin(2 * np.pi * 5000 * time)).astype(np.float32)
    spectrogram = log_mel_vector(tones).reshape(64, 64)
    assert spectrogram[:, 10].argmax() < 10 < 40 < spectrogram[:, 54].argmax()
    assert spectrogram.max() <= 0 and spectrogram.min() >= -80


def test_louder_gives_the_same_vector():
    samples = load_audio(EXAMPLES[0]).samples
    np.testing.assert_allclose(log_mel_vector(samples / 4), log_mel_vector(samples), atol=1e-3)


def test_import_needs_neither_librosa_nor_torch():
    code = "import sys, audio.features; print(sorted({'librosa', 'scipy', 'torch', 'config'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=REPO_DIR, text=True).strip() == "[]"


def test_load_tells_what_the_file_was(tmp_path):
    loud = np.clip(4 * speech(1.0, 8000), -1, 1)
    soundfile.write(tmp_path / "loud.wav", loud, 8000)
    recording = load_audio(tmp_path / "loud.wav")
    assert (recording.seconds, recording.source_rate) == (1.0, 8000)
    assert recording.samples.shape == (RATE,) and recording.samples.dtype == np.float32
    assert recording.peak == pytest.approx(1, abs=1e-3)
    assert recording.clipped == pytest.approx((np.abs(loud) == 1).mean(), abs=0.005) and recording.clipped > 0.01


def test_one_clipped_channel_is_not_hidden_by_the_others(tmp_path):
    speech_ = speech(1.0, 8000)
    loud = np.clip(4 * speech_, -1, 1)
    soundfile.write(tmp_path / "stereo.wav", np.stack([loud, 0.1 * speech_], axis=1), 8000)
    recording = load_audio(tmp_path / "stereo.wav")
    assert recording.peak == pytest.approx(1, abs=1e-3) and np.abs(recording.samples).max() < 0.8
    assert recording.clipped == pytest.approx((np.abs(loud) == 1).mean(), abs=0.005) and recording.clipped > 0.01


@pytest.mark.parametrize(("kind", "message"), BAD.items())
def test_bad_files_are_refused_in_one_line(tmp_path, kind, message):
    path = tmp_path / f"{kind}.wav"
    write_bad(path, kind)
    with pytest.raises(AudioError, match=message) as caught:
        extract(path)
    assert "\n" not in str(caught.value)


def test_raw_and_missing_files(tmp_path):
    (tmp_path / "sound.raw").write_bytes(bytes(4000))
    with pytest.raises(AudioError, match="not a recording"):
        extract(tmp_path / "sound.raw")
    with pytest.raises(FileNotFoundError):
        extract(tmp_path / "none.wav")


def test_no_memory_for_a_recording_is_its_reason(tmp_path, monkeypatch):
    def too_much(*_: object) -> object:
        raise MemoryError

    monkeypatch.setattr(features, "_resample", too_much)
    with pytest.raises(AudioError, match="too long for the memory of this machine; cut it"):
        load_audio(EXAMPLES[0])


# --- samples in memory -----------------------------------------------------------------------------------------------
KINDS = {"float32": "FLOAT", "float64": "DOUBLE", "int16": "PCM_16", "int32": "PCM_32", "uint8": "PCM_U8"}


@pytest.mark.parametrize("channels", [0, 1, 2])
@pytest.mark.parametrize(("dtype", "subtype"), KINDS.items())
def test_samples_give_the_vector_of_the_file_that_holds_them(tmp_path, dtype, subtype, channels):
    """Samples [T], [T, 1] and [T, 2]; the levels, too, are those of the file."""
    sound = np.clip(3 * speech(2.0, 8000), -1, 1)
    sound = np.stack([sound, sound[::-1]][:channels], axis=1) if channels else sound
    soundfile.write(tmp_path / "s.wav", sound, 8000, subtype=subtype)
    if dtype == "uint8":  # which soundfile does not read
        samples = np.rint(soundfile.read(tmp_path / "s.wav")[0] * 128 + 128).astype(np.uint8)
    else:
        samples = soundfile.read(tmp_path / "s.wav", dtype=dtype)[0]
    assert samples.dtype == dtype
    from_file, from_memory = extract(tmp_path / "s.wav"), extract(samples, sample_rate=8000)
    np.testing.assert_array_equal(from_memory.vector, from_file.vector)
    assert (from_memory.seconds, from_memory.peak) == (from_file.seconds, from_file.peak)
    assert from_memory.clipped == from_file.clipped and from_memory.decoder == "array" and not from_memory.damage


def test_long_samples_pass_through_in_blocks(tmp_path):
    sound = speech(20.0, 44_100)
    soundfile.write(tmp_path / "s.wav", sound, 44_100, subtype="FLOAT")
    assert sound.size > 3 * decoding.READ_BLOCK
    rate: Any = 44_100.0  # as some libraries give it
    np.testing.assert_array_equal(extract(sound, sample_rate=rate).vector, extract(tmp_path / "s.wav").vector)


SOUND = speech(0.5, 8000)
NONSENSE = {
    "no rate": (SOUND, None, "the sample rate is None; samples in memory need one"),
    "half a rate": (SOUND, 8000.5, "the sample rate is 8000.5"),
    "a rate that is no number": (SOUND, "8000", "the sample rate is '8000'"),
    "slow": (SOUND, 0, "the sample rate is 0 Hz; 1000 to"),
    "channels first": (
        np.stack([SOUND, SOUND]),
        8000,
        r"\[2, 4000\]; \[samples\] or \[samples, channels\] .* transpose",
    ),
    "a batch": (SOUND[None, None], 8000, r"\[1, 1, 4000\]"),
    "a number": (np.float32(1), 8000, r"shape \[\]"),
    "none": (SOUND[:0], 8000, "no samples"),
    "no frames": (np.zeros((0, 2), np.float32), 8000, "no samples"),
    "short": (SOUND[:50], 8000, "0.006 s"),
    "silent": (0 * SOUND, 8000, "silent"),
    "not finite": (np.where(SOUND[99] == SOUND, np.nan, SOUND), 8000, "not finite"),
    "too large": (SOUND.astype(np.float64) * 1e300, 8000, "not finite"),
    "complex": (SOUND + 1j, 8000, "complex"),
    "truth": (SOUND > 0, 8000, "the samples are bool; floating point, or integers of 8, 16 or 32 bits"),
    "objects": (np.array([{}] * 4000), 8000, "object"),
    "large integers": (np.zeros(4000, np.int64), 8000, "int64"),
}


@pytest.mark.parametrize(("samples", "rate", "message"), NONSENSE.values(), ids=NONSENSE)
def test_samples_that_are_no_sound_are_refused_in_one_line(samples, rate, message):
    with pytest.raises(AudioError, match=message) as caught:
        extract(samples, sample_rate=rate)
    assert "\n" not in str(caught.value)


def test_a_file_has_a_sample_rate_of_its_own():
    with pytest.raises(AudioError, match="leave it out"):
        extract(EXAMPLES[0], sample_rate=44_100)


# --- any length ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rate", [8_000, RATE, 48_000])
def test_blocks_do_not_change_a_bit(tmp_path, monkeypatch, rate):
    soundfile.write(tmp_path / "s.wav", speech(30.0, rate), rate)
    whole, samples = extract(tmp_path / "s.wav").vector, load_audio(tmp_path / "s.wav").samples
    monkeypatch.setattr(decoding, "READ_BLOCK", 4321)
    monkeypatch.setattr(features, "FEED", 1234)
    monkeypatch.setattr(features, "SPOOL", 10_000)  # bytes: the rest goes to a temporary file
    np.testing.assert_array_equal(extract(tmp_path / "s.wav").vector, whole)
    np.testing.assert_array_equal(load_audio(tmp_path / "s.wav").samples, samples)
    np.testing.assert_array_equal(log_mel_vector(samples), whole)


@pytest.mark.parametrize("seconds", [7.0, 30.0])
def test_long_recordings_are_averaged_as_opencv_does(tmp_path, monkeypatch, seconds):
    soundfile.write(tmp_path / "s.wav", speech(seconds, 8000), 8000)
    monkeypatch.setattr(features, "RESIZED_WHOLE", 64)
    np.testing.assert_allclose(
        extract(tmp_path / "s.wav", trim=False).vector, reference(tmp_path / "s.wav"), rtol=0, atol=1e-3
    )


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SPOOL", 1 << 20)
    monkeypatch.setattr(features, "RESIZED_WHOLE", 1 << 12)
    peaks = []
    for minutes in (5, 20):
        soundfile.write(tmp_path / "s.wav", np.tile(speech(60.0, 8000), minutes), 8000)
        tracemalloc.start()
        extract(tmp_path / "s.wav")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 50e6  # the samples alone are 106 MB


def test_a_header_that_lies_takes_no_memory(tmp_path):
    """The header says 1,024 channels and 2 GB, the file has 100 kB."""
    soundfile.write(tmp_path / "s.wav", np.repeat(speech(0.2, 8000)[:1000, None], 1024, axis=1), 8000)
    content = bytearray((tmp_path / "s.wav").read_bytes()[:100_000])
    where = content.index(b"data") + 4
    content[where : where + 4] = (2**31 - 1).to_bytes(4, "little")
    (tmp_path / "s.wav").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(AudioError):  # 0.006 s are there
        extract(tmp_path / "s.wav")
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM"])
def test_equals_librosa_for_every_kind_of_sample(tmp_path, subtype):
    soundfile.write(tmp_path / "s.wav", speech(1.0, 16_000), 16_000, subtype=subtype)
    np.testing.assert_allclose(
        extract(tmp_path / "s.wav", trim=False).vector, reference(tmp_path / "s.wav"), rtol=0, atol=1e-3
    )


def test_the_name_does_not_decide(tmp_path):
    for name in ("voice.raw", "voice.txt", "voice"):
        (tmp_path / name).write_bytes(EXAMPLES[0].read_bytes())
        np.testing.assert_array_equal(extract(tmp_path / name).vector, extract(EXAMPLES[0]).vector)


def test_flaws_of_an_mp3_are_not_commented_on(tmp_path):
    soundfile.write(tmp_path / "s.mp3", speech(1.0, 16_000), 16_000)
    content = bytearray((tmp_path / "s.mp3").read_bytes())
    content[1000:1100] = bytes(100)
    (tmp_path / "s.mp3").write_bytes(content)
    code = f"from audio.features import extract; print(extract({str(tmp_path / 's.mp3')!r}).seconds)"
    result = subprocess.run([sys.executable, "-c", code], cwd=REPO_DIR, capture_output=True, text=True)
    assert float(result.stdout) > 0.5 and not result.stderr


def test_overview(tmp_path):
    sound = np.concatenate([speech(1.0, 8000) / 2, np.zeros(8000, np.float32)])
    soundfile.write(tmp_path / "s.wav", sound, 8000, subtype="FLOAT")
    waveform, decibels = features.overview(tmp_path / "s.wav", 300, (0.0, 2.0))
    assert waveform.shape == (2, 300) and decibels.shape == (64, 300)
    assert waveform[1].max() == pytest.approx(sound.max(), abs=0.05) and (waveform[0] <= waveform[1]).all()
    assert np.abs(waveform[:, 160:]).max() < 1e-3 < np.abs(waveform[:, :140]).max() and decibels.max() == 0


@pytest.mark.parametrize("blocks", [1 << 18, 500], ids=["at once", "in blocks"])
def test_overview_of_what_is_spoken(blocks, tmp_path, monkeypatch):
    """It is that of a file that holds nothing else."""
    monkeypatch.setattr("audio.decoding.READ_BLOCK", blocks)
    room = np.random.default_rng(0).normal(0, 1e-4, 3 * RATE).astype(np.float32)
    room[RATE : 2 * RATE] += speech(1.0, RATE)
    soundfile.write(tmp_path / "s.wav", room, RATE, subtype="FLOAT")
    found = features.extract(tmp_path / "s.wav")
    assert 0.6 < found.begin < 1.2 < 1.8 < found.end < 2.4
    waveform, decibels = features.overview(tmp_path / "s.wav", 64, (found.begin, found.end))
    np.testing.assert_array_equal(decibels, found.vector.reshape(64, 64))
    cut = room[round(found.begin * RATE) : round(found.end * RATE)]
    parts = [cut[np.arange(len(cut)) * 64 // len(cut) == column] for column in range(64)]
    np.testing.assert_allclose(waveform, [[part.min() for part in parts], [part.max() for part in parts]], atol=1e-6)


def test_samples_of_double_precision_are_no_other_sound():
    samples = np.random.default_rng(0).normal(0, 0.1, 40_000).astype(np.float32)
    assert np.array_equal(log_mel_vector(samples.astype(np.float64)), log_mel_vector(samples))
