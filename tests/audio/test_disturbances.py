"""Offset, rumble and hum: taken off where they are louder than the voice, and nowhere else."""

import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import soundfile

import config
from audio import decoding, features, hum
from audio.disturbances import RUMBLE_CUTOFF_HZ
from audio.features import AudioError, extract, load_audio
from audio.filters import HighPass
from audio.sound import Sound
from audio.whitening import Whitening
from tests.recordings import EXAMPLES

VOICE, RATE = soundfile.read(next(path for path in EXAMPLES if path.name == "voice_es.wav"), dtype="float32")
TIMES = np.arange(len(VOICE)) / RATE
CLEAN = extract(VOICE, sample_rate=RATE)


def wave(hertz: float, amplitude: float) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * hertz * TIMES + 1)


def buzz(mains: float, amplitude: float) -> np.ndarray:
    """Return a hum with the first eight lines, and a frequency as it may be at some hour."""
    return sum((wave(1.0006 * mains * n, amplitude / n) for n in range(1, 9)), np.zeros(1))


def disturbed(sound: np.ndarray) -> features.Features:
    return extract((VOICE + sound).astype(np.float32), sample_rate=RATE)


def likeness(one: features.Features, other: features.Features) -> float:
    return float(np.corrcoef(one.vector, other.vector)[0, 1])


DISTURBANCES = {
    "offset": (np.full(1, 0.1), "a constant offset of 0.1 taken off", 0.9999),
    "large offset": (np.full(1, -0.4), "a constant offset of -0.4 taken off", 0.9999),
    "rumble": (wave(25, 0.2), "rumble below 40 Hz taken off", 0.99),
    "slow rumble": (wave(3, 0.4), "rumble below 40 Hz taken off", 0.99),
    "hum": (wave(50, 0.1), "hum of 50 Hz taken off", 0.999),
    "hum with lines": (buzz(50, 0.2), "hum of 50 Hz taken off", 0.999),
    "American hum": (buzz(60, 0.2), "hum of 60 Hz taken off", 0.999),
    "hum of a transformer": (wave(100, 0.1) + wave(200, 0.05), "hum of 50 Hz taken off", 0.999),
    "all": (
        0.2 + wave(20, 0.2) + buzz(50, 0.2),
        "a constant offset of 0.2, rumble below 40 Hz and hum of 50 Hz taken off", 0.98,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("sound", "note", "least"), DISTURBANCES.values(), ids=DISTURBANCES)
def test_a_disturbance_is_taken_off_and_said(sound, note, least):
    heard = disturbed(sound)
    assert heard.note == note
    assert likeness(heard, CLEAN) > least
    assert heard.peak == pytest.approx(CLEAN.peak, rel=0.25)  # the level is that of the voice
    assert not heard.clipped


def wind(times: np.ndarray) -> np.ndarray:
    """Return a rumble of 5 to 38 Hz that comes and goes, with a root mean square of 1."""
    spectrum = np.fft.rfft(np.random.default_rng(0).normal(size=len(times)))
    frequencies = np.fft.rfftfreq(len(times), times[1])
    spectrum[(frequencies < 5) | (frequencies > 38)] = 0
    sound = np.fft.irfft(spectrum, len(times))
    return sound / sound.std()


FAINT = {  # sound of about -20 dB of the loudest cell of the vector
    "offset": ("voice_it.wav", 0.07, np.ones_like, "a constant offset of 0.07"),
    "rumble": ("voice_it.wav", 0.03, lambda times: np.sin(2 * np.pi * 38 * times), "rumble below 40 Hz"),
    "hum": ("voice_it.wav", 0.02, lambda times: np.sin(2 * np.pi * 50 * times), "hum of 50 Hz"),
    "wind": ("voice_fr.wav", 0.03, wind, "rumble below 40 Hz"),
    "wind on a letter": ("letter_hu.ogg", 0.03, wind, "rumble below 40 Hz"),
}


@pytest.mark.parametrize(("name", "level", "sound", "note"), FAINT.values(), ids=FAINT)
def test_what_x_t_shows_is_taken_off(name, level, sound, note):
    """The floor of x_T is 20 dB below the loudest cell of the vector, which is an average over time."""
    voice = load_audio(config.EXAMPLES_DIR / name).samples
    faint = (voice + level * sound(np.arange(len(voice)) / 22_050)).astype(np.float32)
    heard = extract(faint, sample_rate=22_050)
    assert note in heard.note and heard.note.endswith("taken off")
    whitening = Whitening.load(config.BUILTIN_CALIBRATION_DIR / "whitening.npz")
    vectors = np.stack([heard.vector, extract(voice, sample_rate=22_050).vector])
    one, other = whitening.whiten(((vectors - whitening.mean_db) / whitening.std_db).reshape(2, 4, 32, 32))
    assert np.vdot(one, other) > 0.98 * np.linalg.norm(one) * np.linalg.norm(other)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_a_clean_recording_is_read_once_and_unchanged(path, monkeypatch):
    """Its vector is that of the recipe alone."""
    monkeypatch.setattr(features, "_next", lambda source, stats, spectrogram: (stats.choice, stats.off))
    wanted = extract(path)
    monkeypatch.undo()
    readings, opened = [], features.open_sound

    def noted(where: Path) -> AbstractContextManager[Sound]:
        readings.append(where)
        return opened(where)

    monkeypatch.setattr(features, "open_sound", noted)
    heard = extract(path)
    assert readings == [path] and not heard.note
    np.testing.assert_array_equal(heard.vector, wanted.vector)


@pytest.mark.parametrize("sound", [np.full(1, 0.005), wave(25, 0.01), wave(50, 0.01), wave(110, 0.1), wave(440, 0.3)],
                         ids=["offset", "rumble", "hum", "low tone", "tone"])  # fmt: skip
def test_what_does_not_disturb_stays(sound):
    assert not disturbed(sound).note


def test_a_sung_note_is_no_hum():
    """It wavers by one percent, a sixth of a semitone."""
    wavering = np.cumsum(100 * (1 + 0.01 * np.sin(2 * np.pi * 1.3 * TIMES))) / RATE
    note = sum(np.sin(2 * np.pi * n * wavering) / n for n in range(1, 6))
    assert not extract((0.2 * note).astype(np.float32), sample_rate=RATE).note


@pytest.mark.parametrize("sound", [np.full(1, 0.3), buzz(50, 0.2)], ids=["offset", "hum"])
def test_a_disturbance_alone_is_silence(sound):
    with pytest.raises(AudioError, match="is silent"):
        extract(sound.astype(np.float32) + np.zeros(len(VOICE), np.float32), sample_rate=RATE)


def test_blocks_do_not_change_a_bit(monkeypatch):
    sound = (VOICE + 0.2 + wave(20, 0.2) + buzz(50, 0.2)).astype(np.float32)
    sound = np.tile(sound, 3)  # longer than a stretch in which a hum is fitted
    whole = extract(sound, sample_rate=RATE)
    monkeypatch.setattr(decoding, "READ_BLOCK", 4321)
    pieces = extract(sound, sample_rate=RATE)
    assert pieces.note == whole.note
    np.testing.assert_array_equal(pieces.vector, whole.vector)


def test_files_samples_and_plots_are_heard_alike(tmp_path):
    sound = (VOICE + 0.3).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    np.testing.assert_array_equal(extract(tmp_path / "a.wav").vector, extract(sound, sample_rate=RATE).vector)
    assert abs(load_audio(tmp_path / "a.wav").samples.mean()) < 1e-4
    drawn, _ = features.overview(tmp_path / "a.wav", 100, (0.0, CLEAN.seconds))
    assert drawn.mean() == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("rate", [8000, 22_050, 192_000])
def test_the_high_pass_keeps_voices_and_depends_on_no_block(rate):
    """40 Hz is 33 dB down, the 80 Hz of the lowest voices are kept, an offset leaves nothing, not even at first."""
    times = np.arange(2 * rate) / rate
    for hertz, decibels in ((40, -33), (80, 0)):
        sound = (0.5 + np.sin(2 * np.pi * hertz * times)).astype(np.float32)
        heard = HighPass(rate, RUMBLE_CUTOFF_HZ).add(sound)
        assert 20 * np.log10(heard[rate:].std() * 2**0.5) == pytest.approx(decibels, abs=0.5)
        filter_ = HighPass(rate, RUMBLE_CUTOFF_HZ)
        pieces = [filter_.add(block) for block in np.split(sound, [0, 1, 3, 480, 481, 5000])]
        np.testing.assert_array_equal(np.concatenate(pieces), heard)
    assert np.abs(HighPass(rate, RUMBLE_CUTOFF_HZ).add(np.full(rate, 0.5, np.float32))).max() < 1e-6


@pytest.mark.slow
def test_the_library_of_filters_is_loaded_only_where_something_is_taken_off():
    code = (
        "import sys, numpy as np; from audio.features import extract; path = sys.argv[1]\n"
        "extract(path); assert 'scipy' not in sys.modules\n"
        "from audio.features import load_audio; sound = load_audio(path).samples\n"
        "rumble = 0.3 * np.sin(2 * np.pi * 25 * np.arange(len(sound)) / 22_050)\n"
        "extract((sound + rumble).astype('f4'), sample_rate=22_050); assert 'scipy.signal' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, EXAMPLES[0]], check=True)


def test_a_hum_is_taken_off_to_the_ends():
    """Below it the recording has noise at -60 dB, which stays."""
    times = np.arange(11 * RATE) / RATE
    noise = np.random.default_rng(0).normal(0, 1e-3, len(times))
    tone = 0.3 * np.sin(2 * np.pi * 49.97 * times) + 0.1 * np.cos(2 * np.pi * 149.91 * times)
    sound = (noise + tone).astype(np.float32)
    found = hum.find_hum([sound], RATE)
    assert found and found.mains == 50 and found.fundamental == pytest.approx(49.97, abs=0.01)
    assert {1, 3} <= set(found.numbers)
    left = np.concatenate(list(hum.without_hum(np.array_split(sound, 7), RATE, found)))
    np.testing.assert_allclose(left, noise, atol=5e-4)
