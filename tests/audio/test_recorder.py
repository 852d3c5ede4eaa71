"""The recorder with a running sound system, and without one."""

import json
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

import config
from audio import recorder
from tests import sound
from tests.programs import PATIENCE

VOICE = config.EXAMPLES_DIR / "voice_en.wav"
WORD = config.EXAMPLES_DIR / "word_de.ogg"
REPEATS = 6  # of the word, so that all of one is recorded although a busy machine begins late
RECORD = """
import dataclasses, json, sys
from pathlib import Path
from audio import recorder

microphone = recorder.find_microphone()
print(microphone.name, flush=True)
sys.stdin.readline()
finished = Path(sys.argv[2]).exists
heard = []
started = lambda: print("started", flush=True)
recording = recorder.record(Path(sys.argv[1]), microphone, finished, started, lambda *block: heard.append(block))
blocks = {"heard": sum(len(block) for block, _ in heard), "clipped": sum(clipped for _, clipped in heard)}
print(json.dumps(dataclasses.asdict(recording) | blocks, default=str))
"""


class Recorder:
    """The recorder in a process of its own, because PortAudio reads its environment only once."""

    def __init__(self, environment: dict[str, str], folder: Path, **options) -> None:
        self.wav, self.finish_line = folder / "recorded.wav", folder / "finish"
        self.process = subprocess.Popen(
            [sys.executable, "-c", RECORD, str(self.wav), str(self.finish_line)],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
        assert self.process.stdin and self.process.stdout
        self._keys, self._lines = self.process.stdin, self.process.stdout
        self._lines.readline()

    def start(self) -> None:
        self._keys.write("\n")
        self._keys.flush()

    def until_started(self) -> None:
        assert self._lines.readline() == "started\n"

    def finish(self) -> dict:
        self.finish_line.touch()
        return self.result()

    def result(self) -> dict:
        out, err = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, err
        return json.loads(out.splitlines()[-1])

    def error(self) -> str:
        """Return the last line of the traceback."""
        _, err = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 1
        return err.splitlines()[-1]


@pytest.fixture
def record() -> Iterator[Callable[..., Recorder]]:
    """Yield a function that starts a `Recorder`; if it has not ended when the test ends, it is killed."""
    recorders: list[Recorder] = []

    def make(*arguments, **options) -> Recorder:
        recorders.append(Recorder(*arguments, **options))
        return recorders[-1]

    yield make
    for session in recorders:
        session.process.kill()
        session.process.communicate()


@pytest.mark.slow
@pytest.mark.usefixtures("sound_system")
def test_an_input_of_an_interface_that_the_sound_server_leaves_out_is_recorded(record, tmp_path):
    layout = "front-left,front-right,aux0,aux1"
    samples, rate = soundfile.read(WORD)
    channels = np.random.default_rng(0).normal(0, 1e-3, (REPEATS * len(samples), 4))  # of its amplifiers
    channels[:, -1] += np.tile(samples, REPEATS)  # the microphone is at its last input
    soundfile.write(tmp_path / "played.wav", channels, rate, subtype="FLOAT")
    with sound.sound_server(f"channels=4 channel_map={layout}") as server:
        options = ("--no-remix", f"--channel-map={layout}")
        playing = threading.Thread(target=server.speak, args=(tmp_path / "played.wav", *options))
        playing.start()
        time.sleep(1.0)  # until it sounds, as an interface always does
        session = record(server.environment, tmp_path)
        session.start()
        session.until_started()
        playing.join()
        recording = session.finish()
    assert recording["channels"] == 4
    assert sound.likeness(session.wav, WORD) >= 0.95
    peak = np.abs(soundfile.read(session.wav)[0]).max()
    assert peak >= 0.9 * np.abs(samples).max()  # it is not averaged with inputs that have no voice


@pytest.mark.slow
def test_what_is_played_is_recorded(record, microphone, tmp_path):
    session = record(microphone.environment, tmp_path)
    session.start()
    session.until_started()
    microphone.speak(VOICE)
    recording = session.finish()
    assert sound.likeness(session.wav, VOICE) >= 0.95
    file = soundfile.info(session.wav)
    assert (file.channels, file.subtype, file.samplerate) == (1, "PCM_16", recording["sample_rate"])
    assert recording["seconds"] == pytest.approx(file.duration)
    assert recording["ended_by"] == "" and recording["overflows"] == 0
    assert recording["heard"] == file.frames and recording["clipped"] == 0
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".wav"] == ["recorded.wav"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "hums"), [("stop", False), ("suspend", True)], ids=["unplugged, and silent before", "says nothing more"]
)
def test_a_microphone_that_goes_away_leaves_what_was_recorded(record, sound_system, tmp_path, end, hums):
    with sound.sound_server(hums=hums) as server:
        session = record(server.environment, tmp_path)
        session.start()
        session.until_started()
        server.speak(VOICE)
        getattr(server, end)()
        recording = session.result()
    assert recording["ended_by"] == "the microphone went away"
    assert sound.likeness(session.wav, VOICE) >= 0.95


@pytest.mark.slow
def test_a_full_disk_leaves_what_was_recorded(record, microphone, tmp_path):
    resource = pytest.importorskip("resource")

    def disk_is_small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    session = record(microphone.environment, tmp_path, preexec_fn=disk_is_small)
    session.start()
    recording = session.result()
    assert recording["ended_by"] == "the recording cannot be written (file too large)"
    assert 0.4 < soundfile.info(session.wav).duration <= 25_000 / recording["sample_rate"]  # two channels of 16 bits


def test_a_microphone_that_cannot_be_opened_is_named_with_the_others(record, sound_system, tmp_path):
    with sound.sound_server() as server:
        session = record(server.environment, tmp_path)
    session.start()
    error = session.error()
    assert "MicrophoneError: the microphone 'default' cannot be opened" in error
    assert "(devices: 0 " in error
    assert not session.wav.exists()


def test_a_folder_that_is_none_is_an_os_error(record, microphone, tmp_path):
    session = record(microphone.environment, tmp_path)
    tmp_path.joinpath("recorded.wav").mkdir()
    session.start()
    assert "FileExistsError" in session.error()


@pytest.mark.slow
def test_a_recording_that_is_killed_can_be_read(record, microphone, tmp_path):
    session = record(microphone.environment, tmp_path)
    session.start()
    session.until_started()
    microphone.speak(VOICE)
    session.process.kill()
    session.process.wait()
    assert sound.likeness(session.wav, VOICE) >= 0.95


@pytest.mark.slow
def test_clipping_is_noticed(record, microphone, tmp_path):
    loud, rate = soundfile.read(VOICE)
    soundfile.write(tmp_path / "loud.wav", (loud * 20).clip(-1, 1), rate)
    session = record(microphone.environment, tmp_path)
    session.start()
    session.until_started()
    microphone.speak(tmp_path / "loud.wav")
    recording = session.finish()
    assert 0.01 * recording["heard"] < recording["clipped"] < recording["heard"]


def played(path: Path, sound: np.ndarray, channel: int | None = None) -> tuple[np.ndarray, str, list[np.ndarray]]:
    """Record sound [T, channels]; return the samples of the file, the note, and the blocks that were heard."""
    microphone, heard = recorder.Microphone(0, "m", 8000, sound.shape[1], channel), list[np.ndarray]()
    with recorder._WavWriter(path, microphone, lambda block, _: heard.append(block)) as writer:
        for block in np.array_split(sound, 100):
            writer.receive(block, len(block), None, SimpleNamespace(input_overflow=False))
            writer.write_waiting()
    return soundfile.read(path, dtype="float32")[0], writer.choice.note, heard


SPEECH = soundfile.read(VOICE, dtype="float32")[0][3:]  # from the first sample that is not 0


@pytest.mark.parametrize(
    ("channels", "used", "note"),
    [
        ((1, 1), SPEECH, ""),
        ((1, -1), SPEECH, "channel 1 of 2 is used, because the channels cancel each other"),
        ((0, 0, 1, 0, 0, 0, 0, 0), SPEECH, "channel 3 of 8 is used, because the others are silent"),
        ((1, 0), SPEECH / 2, ""),
    ],
)
def test_channels_with_a_voice_are_mixed(tmp_path, channels, used, note):
    sound = SPEECH[:, None] * np.array(channels, np.float32)
    samples, said, heard = played(tmp_path / "r.wav", sound)
    np.testing.assert_allclose(samples, used, atol=1e-4)
    assert said == note and list(tmp_path.iterdir()) == [tmp_path / "r.wav"]
    loudest = np.abs(np.concatenate(heard)).max()
    assert loudest == pytest.approx(np.abs(used).max(), rel=1e-3)  # what the meter shows


def test_one_channel_of_choice_is_recorded(tmp_path):
    sound = np.stack([SPEECH, SPEECH[::-1]], axis=1)
    samples, note, _ = played(tmp_path / "r.wav", sound, channel=2)
    np.testing.assert_allclose(samples, SPEECH[::-1], atol=1e-4)
    assert not note


@pytest.mark.parametrize(("zeros", "left_out"), [(0, 0), (2.0, 2.0), (6.0, 5.0)])
def test_zeros_of_a_device_that_wakes_up_are_left_out(tmp_path, zeros, left_out):
    """Up to five seconds: a device that is silent for longer is not asleep."""
    sound = np.concatenate([np.zeros(round(zeros * 8000), np.float32), SPEECH])[:, None]
    samples, _, heard = played(tmp_path / "r.wav", sound)
    assert len(sound) - len(samples) == pytest.approx(left_out * 8000, abs=700)
    assert len(samples) == sum(map(len, heard))
    np.testing.assert_allclose(samples[-len(SPEECH) :], SPEECH, atol=1e-4)


def test_a_recording_of_zeros_only_has_its_length(tmp_path):
    samples, _, heard = played(tmp_path / "r.wav", np.zeros((8000, 2), np.float32))
    assert len(samples) == 8000 == sum(map(len, heard)) and not samples.any()


def test_lost_sound_is_counted_and_the_rest_written(tmp_path):
    kept, lost = np.full((100, 2), 0.5, np.float32), SimpleNamespace(input_overflow=True)
    with recorder._WavWriter(tmp_path / "long.wav", recorder.Microphone(0, "m", 8000, 2), lambda *_: None) as writer:
        for number in range(recorder.MAX_WAITING + 3):  # nobody writes: three blocks find no room
            writer.receive(kept, 100, None, lost if number == 0 else SimpleNamespace(input_overflow=False))
    assert writer.overflows == 4
    samples, rate = soundfile.read(tmp_path / "long.wav")
    assert rate == 8000 and len(samples) == 100 * recorder.MAX_WAITING and (samples == 0.5).all()


@pytest.mark.parametrize(
    ("release", "command"),
    [
        ({"ID": "debian"}, "sudo apt install libportaudio2"),
        ({"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, "sudo apt install libportaudio2"),
        ({"ID": "fedora"}, "sudo dnf install portaudio"),
        ({"ID": "rocky", "ID_LIKE": "rhel centos fedora"}, "sudo dnf install portaudio"),
        ({"ID": "opensuse-leap", "ID_LIKE": "suse opensuse"}, "sudo zypper install libportaudio2"),
        ({"ID": "plan9"}, "libportaudio.so.2"),
    ],
)
def test_how_to_install_portaudio(monkeypatch, release, command):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    assert command in recorder.install_hint()


def test_importing_the_recorder_needs_no_portaudio():
    program = "import sys, audio.recorder; sys.exit('sounddevice' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=config.REPO_DIR).returncode == 0


class SleepingStream:
    """A stream whose sound ends after one block, and whose `stop` never returns, as where a source was put to sleep."""

    def __init__(self, callback: Callable[..., None], **_: object) -> None:
        self.active, self.ended = True, threading.Event()
        callback(np.full((480, 1), 0.1, np.float32), 480, None, SimpleNamespace(input_overflow=False))

    def __enter__(self) -> "SleepingStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def abort(self) -> None:
        self.active = False
        self.ended.set()

    def stop(self) -> None:
        assert self.ended.wait(PATIENCE), "stop() waits for sound that does not come"


def test_a_recording_ends_though_the_microphone_was_put_to_sleep(tmp_path, monkeypatch):
    module = SimpleNamespace(InputStream=SleepingStream, PortAudioError=RuntimeError)
    monkeypatch.setattr(recorder, "_sounddevice", lambda: module)
    microphone = recorder.Microphone(0, "asleep", 48_000, 1)
    recording = recorder.record(tmp_path / "r.wav", microphone, lambda: True, lambda: None, lambda *_: None)
    assert recording.seconds == pytest.approx(0.01) and recording.ended_by == ""
