"""Microphones that no sound server imitates, on a simulated PortAudio."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from audio import recorder
from audio.recorder import Microphone, MicrophoneError

BUILT_IN = Microphone(1, "Built-in Audio", 48_000, 2)
BLOCK = np.full((480, 2), 0.25, np.float32)


class PortAudioError(Exception):
    pass


class Stream:
    """A stream that gives `blocks` blocks at once and then nothing more; `active` while `is_active()`."""

    def __init__(self, blocks: int, is_active: Callable[[], bool], callback: Callable[..., None]) -> None:
        self._blocks, self._is_active, self._callback = blocks, is_active, callback
        self.aborted = False

    def __enter__(self) -> "Stream":
        for _ in range(self._blocks):
            self._callback(BLOCK, len(BLOCK), None, SimpleNamespace(input_overflow=False))
        return self

    def __exit__(self, *_: object) -> None: ...

    @property
    def active(self) -> bool:
        return self._is_active()

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
def portaudio(monkeypatch) -> SimpleNamespace:
    """Replace the module sounddevice; tests change its devices and the blocks of its stream."""
    fake = SimpleNamespace(
        PortAudioError=PortAudioError, devices=[], refuses="", blocks=3, is_active=lambda: True, renewed=[]
    )

    def device(name: str, inputs: int, outputs: int, rate: float) -> None:
        fake.devices.append(
            {
                "index": len(fake.devices),
                "name": name,
                "max_input_channels": inputs,
                "max_output_channels": outputs,
                "default_samplerate": rate,
            }
        )

    def query_devices(kind: str | None = None) -> Any:
        if not kind:
            return fake.devices
        inputs = [one for one in fake.devices if one["max_input_channels"]]
        if not inputs:
            raise ValueError("not an input device")
        return inputs[0]

    def check_input_settings(**settings: Any) -> None:
        fake.settings = settings
        if fake.refuses:
            raise PortAudioError(fake.refuses)

    fake.query_devices, fake.check_input_settings, fake.device = query_devices, check_input_settings, device
    fake.InputStream = lambda callback, **settings: Stream(fake.blocks, fake.is_active, callback)
    fake._terminate = lambda: fake.renewed.append("ended")
    fake._initialize = lambda: fake.renewed.append("begun")
    device("HDMI", 0, 8, 44_100)
    device("Built-in Audio", 2, 2, 48_000)
    device("USB Audio CODEC", 1, 0, 44_100)
    device("USB Audio CODEC 2", 1, 0, 16_000.4)
    device("pulse", 32, 32, 44_100)
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    monkeypatch.setattr(recorder, "WAKE", 0.01)
    return fake


@pytest.mark.parametrize(
    ("choice", "name", "rate", "channels"),
    [
        ("", "Built-in Audio", 48_000, 2),
        ("3", "USB Audio CODEC 2", 16_000, 1),
        ("usb audio codec", "USB Audio CODEC", 44_100, 1),  # the whole name of one, a part of another's
        (" built-IN ", "Built-in Audio", 48_000, 2),
        ("pulse", "pulse", 44_100, 2),  # a sound server makes up channels: two are asked for
    ],
)
def test_a_microphone_is_found_by_number_or_name(portaudio, choice, name, rate, channels):
    found = recorder.find_microphone(choice)
    assert (found.name, found.sample_rate, found.channels) == (name, rate, channels)
    assert portaudio.settings == {"device": found.index, "channels": channels, "samplerate": rate, "dtype": "float32"}


def test_one_channel_of_a_microphone(portaudio):
    assert recorder.find_microphone("1", 2).channel == 2
    assert portaudio.settings["channels"] == 2
    with pytest.raises(MicrophoneError, match="the microphone 'Built-in Audio' has 2 channels; there is no channel 3"):
        recorder.find_microphone("1", 3)
    assert recorder.find_microphone("pulse", 5).channels == 5  # a sound server makes up as many as are asked for


@pytest.mark.parametrize("zeros", [1, 3])
def test_a_recording_is_announced_once_the_device_is_awake(portaudio, tmp_path, monkeypatch, zeros):
    """It gives nothing but zeros first; a device that goes on with it may have a gate for noise."""
    monkeypatch.setattr(recorder, "ASLEEP", 0.05)
    events: list[str] = []

    class Waking(Stream):
        def __enter__(self) -> "Waking":
            blocks = [np.zeros_like(BLOCK)] * zeros + [BLOCK] * (3 - zeros)
            for block in blocks:
                self._callback(block, len(block), None, SimpleNamespace(input_overflow=False))
            return self

    portaudio.InputStream = lambda callback, **_: Waking(0, lambda: True, callback)
    recorder.record(
        tmp_path / "r.wav", BUILT_IN, lambda: "started" in events, lambda: events.append("started"),
        lambda block, _: events.append("sound" if block.any() else "zeros"),
    )  # fmt: skip
    assert events == (["sound", "sound", "started"] if zeros == 1 else ["started", "zeros"])
    assert len(soundfile.read(tmp_path / "r.wav")[0]) == (2 if zeros == 1 else 3) * len(BLOCK)


def test_a_recording_that_is_stopped_before_the_device_is_awake_is_not_announced(portaudio, tmp_path):
    class Asleep(Stream):
        def __enter__(self) -> "Asleep":
            self._callback(np.zeros_like(BLOCK), len(BLOCK), None, SimpleNamespace(input_overflow=False))
            return self

    portaudio.InputStream = lambda callback, **_: Asleep(0, lambda: True, callback)
    said: list[str] = []
    recorder.record(tmp_path / "r.wav", BUILT_IN, lambda: True, lambda: said.append("started"), lambda *_: None)
    assert not said


@pytest.mark.parametrize(
    ("takes", "rate", "channels"),
    [
        (lambda asked: asked["samplerate"] == 48_000, 48_000, 2),
        (lambda asked: asked["channels"] == 1, 44_100, 1),
        (lambda asked: asked["channels"] == 1 and asked["samplerate"] == 16_000, 16_000, 1),
    ],
    ids=["48000 only", "mono only", "16000 and mono only"],
)
def test_a_device_that_refuses_its_own_settings_is_asked_for_others(portaudio, takes, rate, channels):
    def check_input_settings(**asked: Any) -> None:
        if not takes(asked):
            raise PortAudioError("Invalid sample rate [PaErrorCode -9997]")

    portaudio.check_input_settings = check_input_settings
    portaudio.device("hw:0", 2, 2, 44_100)
    found = recorder.find_microphone("hw:0")
    assert (found.sample_rate, found.channels) == (rate, channels)


def test_a_name_may_be_a_number(portaudio):
    portaudio.device("2", 1, 0, 48_000)
    portaudio.device("1080", 1, 0, 48_000)
    assert recorder.find_microphone("2").name == "USB Audio CODEC"  # the index goes first
    assert recorder.find_microphone("1080").name == "1080"


def test_a_device_whose_name_is_not_text_hides_no_other_one(portaudio):
    """sounddevice raises this for names that are not UTF-8, also where all devices are asked for."""
    known = list(portaudio.devices)

    def query_devices(number: int | None = None, kind: str | None = None) -> Any:
        if number is None or kind or number == 1:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
        if number >= len(known):
            raise PortAudioError("Error querying device")
        return known[number]

    portaudio.query_devices = query_devices
    assert recorder.find_microphone("codec 2").index == 3
    with pytest.raises(MicrophoneError, match=r"is not text; choose one by its number \(devices: 0 HDMI"):
        recorder.find_microphone()


def source(**channels: float) -> np.ndarray:
    """Return a block of a sound server in which some channels have noise: c5=0.1 is the sixth, of amplitude 0.1."""
    block = np.zeros((480, recorder.SERVER_CHANNELS), np.float32)
    for number, (name, amplitude) in enumerate(channels.items()):
        block[:, int(name[1:])] = np.random.default_rng(number).normal(0, amplitude, len(block))
    return block


def test_the_channels_of_a_source_are_known_from_those_that_are_made_up():
    """The server fills channels with copies of left and right, their mean, and low frequencies."""
    made_up = source(c0=0.1, c1=0.1)
    made_up[:, [2, 6]], made_up[:, [3, 7]] = made_up[:, :1], made_up[:, 1:2]
    made_up[:, 4] = made_up[:, :2].mean(axis=1)
    made_up[:, 5] = np.convolve(made_up[:, 4], np.ones(50) / 50, "same")
    mono = np.repeat(source(c0=0.1)[:, :1], recorder.SERVER_CHANNELS, axis=1)
    mono[:, 5] = 0.0
    for block in (made_up, mono, source()):
        assert recorder.own_channels(block) == ()
    assert recorder.own_channels(source(c8=0.01, c9=0.1)) == (8, 9)
    assert recorder.own_channels(source(c0=0.01, c1=0.01, c8=0.01)) == (0, 1, 8)
    assert recorder.own_channels(source(c0=0.01, c1=0.01, c6=0.1, c7=0.1)) == (0, 1, 6, 7)


def test_inputs_that_a_sound_server_leaves_out_are_opened(portaudio, tmp_path):
    opened: list[int] = []

    def stream(callback: Callable[..., None], channels: int, **_: Any) -> Stream:
        opened.append(channels)
        blocks = np.tile(source(c8=0.01, c9=0.1), (10, 1))
        return Stream(3, lambda: True, lambda _, frames, *more: callback(blocks, len(blocks), *more))

    portaudio.InputStream = stream
    microphone = recorder.find_microphone("pulse")
    assert (microphone.channels, microphone.columns) == (2, (8, 9))
    recorder.record(tmp_path / "voice.wav", microphone, lambda: True, lambda: None, lambda *_: None)
    assert opened == [32, 32]
    samples, _ = soundfile.read(tmp_path / "voice.wav")
    assert samples.ndim == 1 and samples.std() > 0.02


def test_ctrl_c_while_channels_are_looked_for_does_not_wait_for_sound(portaudio, monkeypatch):
    streams: list[Stream] = []

    def stream(callback: Callable[..., None], **_: Any) -> Stream:
        streams.append(Stream(0, lambda: True, callback))
        return streams[-1]

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    portaudio.InputStream = stream
    monkeypatch.setattr(recorder.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        recorder.find_microphone("pulse")
    assert [one.aborted for one in streams] == [True]


def test_zeros_at_the_end_are_counted(portaudio, tmp_path):
    blocks = iter([BLOCK, 0 * BLOCK, BLOCK, np.concatenate([BLOCK[:100], 0 * BLOCK[100:]]), 0 * BLOCK])

    def stream(callback: Callable[..., None], **_: Any) -> Stream:
        return Stream(5, lambda: True, lambda _, *more: callback(next(blocks), *more))

    portaudio.InputStream = stream
    recording = recorder.record(tmp_path / "voice.wav", BUILT_IN, lambda: True, lambda: None, lambda *_: None)
    assert recording.zeros == (380 + 480) / 48_000


@pytest.mark.parametrize(
    ("choice", "problem"),
    [
        ("0", "there is no microphone 0"),  # an output
        ("bluetooth", "there is no microphone bluetooth"),
        ("audio", "3 microphones have 'audio' in their names"),
    ],
)
def test_a_choice_that_fits_none_or_several_names_the_devices(portaudio, choice, problem):
    with pytest.raises(MicrophoneError) as caught:
        recorder.find_microphone(choice)
    assert str(caught.value).startswith(f"{problem} (devices: 0 HDMI (0 in, 8 out), 1 Built-in Audio (2 in, 2 out), ")


def test_a_busy_microphone_is_named_with_the_reason(portaudio):
    portaudio.refuses = "Device unavailable"
    with pytest.raises(MicrophoneError, match="'Built-in Audio' cannot be opened: Device unavailable"):
        recorder.find_microphone()


def test_without_any_input_the_outputs_are_told_of(portaudio):
    del portaudio.devices[1:]
    with pytest.raises(MicrophoneError, match=r"there is no microphone \(devices: 0 HDMI"):
        recorder.find_microphone()
    portaudio.devices.clear()
    with pytest.raises(MicrophoneError, match=r"there is no microphone \(no sound device at all\)"):
        recorder.list_microphones()


def test_the_list_has_inputs_only_and_marks_the_default(portaudio):
    lines = recorder.list_microphones()
    assert lines[0] == "  1 Built-in Audio  (2 channels, 48000 Hz)  default"
    assert len(lines) == 4 and not any("default" in line for line in lines[1:])


def test_devices_are_looked_for_again(portaudio):
    recorder.forget_devices()
    assert portaudio.renewed == ["ended", "begun"]


def test_without_the_library_the_way_to_install_it_is_told(monkeypatch):
    class Missing:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Missing, *sys.meta_path])
    with pytest.raises(MicrophoneError, match=r"needs the PortAudio library \(PortAudio library not found\): "):
        recorder.find_microphone()


@pytest.mark.parametrize(
    ("platform", "hint"), [("darwin", "brew install portaudio"), ("win32", "pip install --force-reinstall sounddevice")]
)
def test_how_to_install_it_elsewhere(monkeypatch, platform, hint):
    monkeypatch.setattr(sys, "platform", platform)
    assert recorder.install_hint().startswith(hint)


def test_a_system_that_does_not_say_its_name(monkeypatch):
    def nameless() -> None:
        raise OSError

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(recorder.platform, "freedesktop_os_release", nameless)
    assert "libportaudio.so.2" in recorder.install_hint()


def record(path, stop: Callable[[], bool] = lambda: False) -> recorder.Recording:
    return recorder.record(path, BUILT_IN, stop, lambda: None, lambda *_: None)


def test_a_microphone_that_gives_nothing_leaves_nothing(portaudio, tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "FIRST_SOUND", 0.05)
    portaudio.blocks = 0
    with pytest.raises(MicrophoneError, match="no sound comes from the microphone"):
        record(tmp_path / "voice.wav")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("active", [False, True], ids=["closed", "stalled"])
def test_a_microphone_that_goes_silent_for_good_ends_the_recording(portaudio, tmp_path, monkeypatch, active):
    monkeypatch.setattr(recorder, "STALLED", 0.05 if active else 3600.0)
    answers = iter([True] * 3)  # it gives sound before it closes
    portaudio.is_active = lambda: active or next(answers, False)
    recording = record(tmp_path / "voice.wav")
    assert recording.ended_by == "the microphone went away"
    assert soundfile.info(tmp_path / "voice.wav").frames == 3 * len(BLOCK) == recording.seconds * 48_000


def test_a_wav_file_holds_four_gigabytes(portaudio, tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "WAV_BYTES", 2 * BLOCK.size * recorder.SAMPLE_BYTES)
    recording = record(tmp_path / "voice.wav")
    assert recording.ended_by == "a wav file can hold no more"
    samples, _ = soundfile.read(tmp_path / "voice.wav")
    assert len(samples) == 2 * len(BLOCK) and np.allclose(samples, 0.25, atol=1e-4)


def test_a_disk_without_room_for_the_first_block_is_an_error(portaudio, tmp_path, monkeypatch):
    def full(self: object, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recorder.wave.Wave_write, "writeframes", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        record(tmp_path / "voice.wav")
    assert caught.value.filename == str(tmp_path) and not list(tmp_path.iterdir())


def test_a_stream_that_cannot_be_opened_is_named(portaudio, tmp_path):
    def refuse(**_: object) -> None:
        raise PortAudioError("Invalid device")

    portaudio.InputStream = refuse
    with pytest.raises(MicrophoneError, match="'Built-in Audio' cannot be opened: Invalid device"):
        record(tmp_path / "voice.wav")
    assert not list(tmp_path.iterdir())
