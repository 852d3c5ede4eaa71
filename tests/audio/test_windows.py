"""Latents along a recording: each is that of the cut-out file, and their file is read as safely as any other."""

import errno
import io
import json
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

import config
import process_live_audio
from audio import windows
from audio.calibration import Calibration
from audio.decoding import open_sound
from audio.provenance import read_heard, read_latents, read_names, read_note, statistics_sha256
from audio.qualities import UNHEARD, Heard
from audio.sound import AudioError
from audio.torch_zip import open_torch_zip
from audio.windows import Timeline, Windows, make_windows, read_windows, write_windows
from files import sha256_of

VOICE = config.EXAMPLES_DIR / "voice_it.wav"


def voice(sample_rate: int, seconds: float) -> np.ndarray:
    """A voice, float32 [T], said again and again."""
    samples, rate = soundfile.read(VOICE, dtype="float32")
    resampled = soxr.resample(samples, rate, sample_rate)
    return np.resize(resampled, round(seconds * sample_rate))


def along(recording: Path, *options: str) -> Windows:
    """Latents along a recording, as the command makes them."""
    out = recording.with_suffix(".along.pt")
    assert process_live_audio.main([f"--input_file={recording}", f"--output_file={out}", *options]) == 0
    return read_windows(out)


def heard_along(recording: Path) -> list[Heard]:
    """Facts that the latents of `along` do not hold, one a window."""
    path = recording.with_suffix(".along.pt")
    return read_heard(path, len(read_latents(path)))


def of_cut(recording: Path, begin: float, seconds: float, *options: str) -> tuple[np.ndarray, Heard]:
    """The latents of a stretch that is cut out, as the command makes them, [4, 32, 32], and what they do not hold."""
    with open_sound(recording) as sound:
        samples, rate = np.concatenate(list(sound.blocks)), sound.sample_rate
    first, cut = round(begin * rate), recording.with_suffix(".cut.wav")
    soundfile.write(cut, samples[first : first + round(seconds * rate)], rate, "FLOAT")
    made = cut.with_suffix(".pt")
    assert process_live_audio.main([f"--input_file={cut}", f"--output_file={made}", *options]) == 0
    return read_latents(made).numpy()[0], read_heard(made, 1)[0]


def assert_as_cut(recording: Path, found: Windows, number: int, *options: str) -> None:
    """Compare a window of `along` with the file that is cut out there, to the bit."""
    latents, heard = of_cut(recording, found.times[number], found.window, *options)
    assert (latents == found.latents[number]).all()
    assert heard == heard_along(recording)[number] != UNHEARD


def sounds() -> dict[str, tuple[int, np.ndarray]]:
    at_44, at_8 = voice(44_100, 3.2), voice(8_000, 3.2)
    time = np.arange(len(at_8)) / 8_000
    return {
        "clean": (22_050, voice(22_050, 3.2)),
        "telephone": (8_000, at_8),
        "stereo": (44_100, np.stack([at_44, np.roll(at_44, 99)], axis=1)),
        "opposite channels": (44_100, np.stack([at_44, -at_44], axis=1)),
        "an offset that comes": (8_000, at_8 + 0.3 * (time > 1.6)),
        "hum": (8_000, at_8 / 4 + 0.3 * np.sin(2 * np.pi * 50 * time)),
        "rumble": (8_000, at_8 / 8 + 0.5 * np.sin(2 * np.pi * 15 * time)),
    }


@pytest.mark.parametrize("kind", sounds())
def test_the_latents_of_a_window_are_those_of_the_cut_out_file(kind, tmp_path):
    rate, samples = sounds()[kind]
    soundfile.write(tmp_path / "a.wav", samples, rate, "FLOAT")
    found = along(tmp_path / "a.wav", "--windows=1.5", "--hop=0.37")
    assert len(found.times) == 5 and found.seconds == pytest.approx(3.2, abs=1e-3)
    assert found.times == pytest.approx(np.arange(5) * 0.37, abs=0.51 / rate)
    assert not (found.latents[0] == found.latents[3]).all()
    for number in (0, 1, 3, 4):
        assert_as_cut(tmp_path / "a.wav", found, number)


@pytest.mark.parametrize("options", [(), ("--no_trim",)], ids=["silence is cut", "silence is kept"])
def test_silence_in_windows_is_cut_as_in_files(options, tmp_path):
    room = np.random.default_rng(0).normal(0, 1e-3, 8_000 * 4).astype(np.float32)
    room[8_000:16_000] += voice(8_000, 1)
    soundfile.write(tmp_path / "a.wav", room, 8_000, "FLOAT")
    found = along(tmp_path / "a.wav", "--windows=3", "--hop=0.5", *options)
    for number in range(3):
        assert_as_cut(tmp_path / "a.wav", found, number, *options)
    seconds = [heard.seconds for heard in heard_along(tmp_path / "a.wav")]
    assert all(2.9 < one < 3.1 for one in seconds) if options else all(one < 1.5 for one in seconds)


@pytest.mark.parametrize("suffix", [".flac", ".mp3", ".ogg"])
def test_compressed_recordings_are_cut_after_decoding(suffix, tmp_path):
    soundfile.write(tmp_path / f"a{suffix}", voice(16_000, 2.4), 16_000)
    found = along(tmp_path / f"a{suffix}", "--windows=1", "--hop=0.7")
    assert len(found.times) == 3
    for number in range(3):
        assert_as_cut(tmp_path / f"a{suffix}", found, number)


def test_the_windows_do_not_depend_on_where_blocks_end(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", voice(8_000, 4), 8_000)
    whole = along(tmp_path / "a.wav", "--windows=1", "--hop=0.5")
    monkeypatch.setattr("audio.decoding.READ_BLOCK", 1_777)
    monkeypatch.setattr(windows, "ROWS_AT_ONCE", 2)
    cut = along(tmp_path / "a.wav", "--windows=1", "--hop=0.5")
    assert len(whole.latents) == 7 and (whole.latents == cut.latents).all() and (whole.times == cut.times).all()


def test_a_recording_shorter_than_a_window_is_one_window(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", voice(8_000, 1), 8_000)
    found = along(tmp_path / "a.wav", "--windows=3")
    assert found.latents.shape == (1, 4, 32, 32) and found.times.tolist() == [0] and found.seconds == 1
    assert_as_cut(tmp_path / "a.wav", found, 0)
    assert "note: a.wav: a film of one window stands still; choose a shorter --windows" in capsys.readouterr().err


def test_windows_may_lie_apart(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", voice(8_000, 5), 8_000)
    found = along(tmp_path / "a.wav", "--windows=0.5", "--hop=2")
    assert found.times.tolist() == [0, 2, 4]
    assert "windows of 0.5 s every 2 s leave out 75% of the sound; choose a shorter --hop" in capsys.readouterr().err
    assert_as_cut(tmp_path / "a.wav", found, 2)


@pytest.mark.parametrize("pause", [0.0, 3e-4], ids=["digital silence", "noise of a room"])
def test_a_pause_gets_the_last_window_with_sound_and_the_first_one_before_any(pause, tmp_path, capsys):
    said = voice(8_000, 2)
    quiet = np.random.default_rng(0).normal(0, pause, 8_000 * 2).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", np.concatenate([quiet, said, quiet, said[::-1], quiet]), 8_000, "FLOAT")
    found = along(tmp_path / "a.wav", "--windows=1", "--hop=1")
    assert "10 windows, 6 of them pauses" in capsys.readouterr().out
    sources = [2, 2, 2, 3, 3, 3, 6, 7, 7, 7]
    for number, source in enumerate(sources):
        assert (found.latents[number] == found.latents[source]).all()
    assert len({latents.tobytes() for latents in found.latents}) == 4
    heard = heard_along(tmp_path / "a.wav")
    assert heard == [heard[source] for source in sources]
    for number in (2, 3, 6, 7):
        assert_as_cut(tmp_path / "a.wav", found, number)


def test_the_file_is_one_of_latents_as_any_other(tmp_path):
    soundfile.write(tmp_path / "song.wav", voice(8_000, 2), 8_000)
    found, path = along(tmp_path / "song.wav", "--windows=1", "--hop=0.5"), tmp_path / "song.along.pt"
    assert (read_latents(path).numpy() == found.latents).all()
    for mapped in (False, True):
        assert (torch.load(path, weights_only=True, mmap=mapped).numpy() == found.latents).all()
    assert open_torch_zip(path) == (path, True) and zipfile.ZipFile(path).testzip() is None
    calibration = Calibration.load(config.BUILTIN_CALIBRATION_DIR)
    assert read_note(path) == statistics_sha256(calibration.mean_db, calibration.std_db)
    assert read_names(path, 3) == ["song.wav 0.00 s", "song.wav 0.50 s", "song.wav 1.00 s"]
    assert (found.window, found.hop, found.sha256) == (1, 0.5, sha256_of(tmp_path / "song.wav"))
    again = path.read_bytes()
    along(tmp_path / "song.wav", "--windows=1", "--hop=0.5")
    assert path.read_bytes() == again


@pytest.mark.slow
def test_memory_does_not_grow_with_the_recording(monkeypatch, tmp_path):
    def peak(minutes: int) -> float:
        soundfile.write(tmp_path / "a.wav", voice(8_000, 60 * minutes), 8_000)
        tracemalloc.start()
        make_windows(tmp_path / "a.wav", tmp_path / "a.pt", config.BUILTIN_CALIBRATION_DIR, 0.2, 5)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    monkeypatch.setattr(windows, "ROWS_AT_ONCE", 16)  # both recordings have more windows than are copied together
    peak(12)  # imports what is needed now and then, and fills caches
    assert peak(12) - peak(3) < 2_000_000  # nine minutes are 17 MB of samples


@pytest.mark.parametrize("ends", [KeyboardInterrupt, OSError])
def test_what_ends_early_leaves_the_file_that_was_there(ends, tmp_path):
    soundfile.write(tmp_path / "a.wav", voice(8_000, 3), 8_000)
    (tmp_path / "a.pt").write_bytes(b"before")

    def each(done: int, expected: int) -> None:
        assert expected == 11
        if done == 4:
            raise ends

    with pytest.raises(ends):
        make_windows(tmp_path / "a.wav", tmp_path / "a.pt", config.BUILTIN_CALIBRATION_DIR, 0.5, 0.25, each=each)
    assert (tmp_path / "a.pt").read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 2


def test_recordings_that_cannot_be_used_are_named(tmp_path):
    def refusal(samples: np.ndarray, window: float = 3.0) -> str:
        soundfile.write(tmp_path / "a.wav", samples, 8_000, "FLOAT")
        with pytest.raises(AudioError) as caught:
            make_windows(tmp_path / "a.wav", tmp_path / "a.pt", config.BUILTIN_CALIBRATION_DIR, window)
        assert not (tmp_path / "a.pt").exists()
        return str(caught.value).removeprefix(f"{tmp_path / 'a.wav'}: ")

    broken = voice(8_000, 4)
    broken[20_000] = np.nan
    assert refusal(broken, window=1.0).startswith("at 1.75 s the recording has samples that are not finite")
    assert refusal(np.zeros(40_000, np.float32)).startswith("the recording is silent")
    assert refusal(np.zeros(0, np.float32)).startswith("the recording holds no samples")
    assert refusal(voice(8_000, 0.05)).startswith("the recording lasts 0.050 s; at least 0.093 s are needed")


@pytest.mark.parametrize(("window", "hop"), [(3.0, 0.0), (3.0, -1.0), (0.0, 0.25), (61.0, 0.25), (3.0, float("nan"))])
def test_windows_out_of_their_limits_are_refused(window, hop, tmp_path):
    with pytest.raises(ValueError, match="a window lasts 0.1 to 60 s, and the next one begins 0.01 to 60 s later"):
        make_windows(VOICE, tmp_path / "a.pt", config.BUILTIN_CALIBRATION_DIR, window, hop)


def test_the_script_has_the_limits_and_the_hop_of_the_library():
    assert (windows.SHORTEST_WINDOW, windows.LONGEST_WINDOW) == process_live_audio.SECONDS
    assert (windows.SHORTEST_HOP, windows.LONGEST_HOP) == process_live_audio.HOPS
    assert windows.HOP == process_live_audio.HOP


@pytest.mark.parametrize("begins", [True, False])
def test_errors_of_the_disk_name_the_file_of_latents(begins, tmp_path, monkeypatch):
    """Latents wait in a file without a name, whose errors name another one, or none."""

    class Full(io.BytesIO):
        def write(self, content) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def unwritable(dir: Path) -> Full:
        if begins:
            return Full()
        raise OSError(errno.EACCES, "Permission denied", os.path.join(os.path.abspath(dir), "tmpabc"))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(windows.tempfile, "TemporaryFile", unwritable)
    with pytest.raises(OSError) as caught:
        make_windows(VOICE, Path("a.pt"), config.BUILTIN_CALIBRATION_DIR)
    assert caught.value.filename == "a.pt"


def test_windows_of_too_many_samples_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "MOST_SAMPLES", 100_000)
    soundfile.write(tmp_path / "a.wav", np.zeros((10, 16), np.float32), 8_000)
    with pytest.raises(AudioError, match="holds 384,000 samples of all 16 channels, and 100,000 are allowed"):
        make_windows(tmp_path / "a.wav", tmp_path / "a.pt", config.BUILTIN_CALIBRATION_DIR)


# --- files from elsewhere --------------------------------------------------------------------------------------------
LATENTS = np.arange(3 * 4 * 32 * 32, dtype=np.float32).reshape(3, 4, 32, 32)
ABOUT = {"window": 3.0, "hop": 0.25, "seconds": 3.5, "recording_sha256": "a" * 64, "times": [0, 0.25, 0.5]}


def with_record(path: Path, record: str | None) -> Path:
    torch.save(torch.from_numpy(LATENTS), path)
    if record is not None:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/{windows.WINDOWS}", record)
    return path


def test_what_was_written_is_read(tmp_path):
    path = with_record(tmp_path / "a.pt", json.dumps(ABOUT))
    found = read_windows(path)
    assert (found.latents == LATENTS).all() and found.times.tolist() == ABOUT["times"]
    heard = [Heard(1.0, 200.0, 0.9), UNHEARD, Heard(3.0, 90.5, 0.4)]
    write_windows(tmp_path / "b.pt", found, (4, 32, 32), [LATENTS[:1], LATENTS[1:]], "f" * 64, ["a", "b", "c"], heard)
    again = read_windows(tmp_path / "b.pt")
    assert read_names(tmp_path / "b.pt", 3) == ["a", "b", "c"] and read_heard(tmp_path / "b.pt", 3) == heard
    assert isinstance(again, Timeline) and (again.latents == LATENTS).all()
    assert (again.window, again.hop, again.seconds, again.sha256) == (3.0, 0.25, 3.5, "a" * 64)
    assert found.channel is None and again.channel is None  # earlier versions kept none


def test_the_channel_that_was_heard_is_kept(tmp_path):
    make_windows(VOICE, tmp_path / "a.pt", config.BUILTIN_CALIBRATION_DIR, channel=1)
    assert read_windows(tmp_path / "a.pt").channel == 1


@pytest.mark.parametrize("record", [None, "", "{", "[" * 100_000])
def test_latents_without_times_are_refused(record, tmp_path):
    path = with_record(tmp_path / "a.pt", record)
    with pytest.raises(ValueError, match="holds 3 latents without times"):
        read_windows(path)


@pytest.mark.parametrize(
    "changed",
    [
        {"times": [0, 0.25]}, {"times": [0, 0.5, 0.25]}, {"times": [0, 0, 1]}, {"times": [-1, 0, 1]}, {"times": "abc"},
        {"times": [0, 1, 1e999]}, {"times": [0, 1, float("nan")]}, {"times": [[0], [1], [2]]}, {"times": None},
        {"times": [0, 1, {}]}, {"window": 0}, {"window": "x"}, {"hop": -1}, {"hop": float("nan")}, {"seconds": 1e999},
        {"seconds": None}, {"seconds": 0.4}, {"seconds": 1e12}, {"window": 1e9}, {"hop": 1e9}, {"times": [0, 0.25, 9]},
        {"times": [9, 9.25, 9.5], "seconds": 12}, {"recording_sha256": 3}, {"recording_sha256": "\x1b[2J"},
        {"channel": 0}, {"channel": "2"}, {"channel": True},
    ],
    ids=str,
)  # fmt: skip
def test_times_that_do_not_fit_are_refused(changed, tmp_path):
    path = with_record(tmp_path / "a.pt", json.dumps(ABOUT | changed))
    with pytest.raises(ValueError, match="holds times that do not fit its 3 latents"):
        read_windows(path)


@pytest.mark.parametrize("record", ["null", "3", '"x"', "[]"])
def test_a_record_of_another_kind_is_refused(record, tmp_path):
    with pytest.raises(ValueError, match="do not fit"):
        read_windows(with_record(tmp_path / "a.pt", record))


# --- the command line ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--hop=0.25"], "add --windows S"),
        (["--windows=0"], "a number from 0.1 to 60"),
        (["--windows=3", "--hop=0"], "a number from 0.01 to 60"),
        (["--windows=61"], "a number from 0.1 to 60"),
    ],
)
def test_wrong_options_are_refused(options, problem, capsys):
    with pytest.raises(SystemExit) as exit:
        process_live_audio.main([f"--input_file={VOICE}", *options])
    assert exit.value.code == 2 and problem in capsys.readouterr().err


def test_the_time_that_it_takes_is_said_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(process_live_audio, "LONG", 0.0)
    soundfile.write(tmp_path / "a.wav", voice(8_000, 6), 8_000)
    along(tmp_path / "a.wav", "--windows=0.5", "--hop=0.05")
    said = capsys.readouterr()
    assert "a.wav: 111 windows, 2 MB; this takes about" in said.out + said.err
    assert "latents of 111 windows, from 6.0 s of sound" in said.out and "--film" in said.out
