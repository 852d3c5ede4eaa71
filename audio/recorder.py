"""Record from a microphone: sound is written to disk as it comes, at the device's own sample rate.

All channels are written; at the end they are mixed to mono, since only the whole recording tells which of them have
sound (`channels.py`). PortAudio's thread puts blocks into a queue, and the calling thread writes them to a file. The
whole recording is never in memory, and the file is complete however the program ends. `sounddevice` is imported only
when a microphone is used, because it needs the PortAudio library.
"""

import platform
import queue
import sys
import time
import wave
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .channels import ChannelLevels, Choice
from .files import atomic_path
from .levels import count_clipped

LATENCY = 0.1  # seconds of sound that PortAudio may hold while the machine is busy elsewhere
FIRST_SOUND = 5.0  # seconds to wait for the first sound; a Bluetooth headset takes two to wake up
ASLEEP = 2.0  # seconds of zeros after which a recording is announced all the same: it may be a gate for noise
STALLED = 3.0  # seconds without data, not even silence, after which a microphone counts as unplugged
POLL = 0.01  # seconds between two checks of `stop` and of the queue
LAST_BLOCK = 0.1  # seconds to wait for the block that was on its way when a recording ends; blocks are shorter
MAX_WAITING = 1024  # blocks in the queue, at least 9 s; with a slower disk sound is lost, and memory does not grow
SERVER_CHANNELS = 32  # a device with so many inputs is a sound server, which offers any number that is asked for
PLACED = 8  # the first channels of a sound server are left, right and others with a place; the rest are numbered inputs
LISTEN = 0.05  # seconds of sound by which the channels of a source are found
ZEROS = 0.5  # seconds of zeros after which it is taken for one with two channels
WAKE = 2.0  # seconds to wait for either
COPY = 1e-3  # a channel that differs less from others, relative to the loudest sample, is made up from them
RATES = (48_000, 44_100, 96_000, 88_200, 192_000, 32_000, 24_000, 22_050, 16_000, 11_025, 8_000)  # Hz, tried in turn
MOST_DEVICES = 256  # that are asked for one by one
SAMPLE_BYTES = 2
MIXED = 1 << 18  # samples of all channels that are mixed at a time
WAV_BYTES = 2**32 - 64  # the largest size that the header of a wav file can hold

OnBlock = Callable[[np.ndarray, int], None]  # called with a block [T] float32, mono, and its number of clipped frames

INSTALL_PORTAUDIO = {  # by ID or ID_LIKE of /etc/os-release
    "debian": "sudo apt install libportaudio2",
    "ubuntu": "sudo apt install libportaudio2",
    "fedora": "sudo dnf install portaudio",
    "rhel": "sudo dnf install portaudio",
    "arch": "sudo pacman -S portaudio",
    "suse": "sudo zypper install libportaudio2",
    "alpine": "sudo apk add portaudio",
}


class MicrophoneError(RuntimeError):
    """No microphone can be used; the message, one line, says why and what to do."""


@dataclass(frozen=True)
class Microphone:
    """An input device that can be opened."""

    index: int  # PortAudio's number
    name: str
    sample_rate: int  # Hz, the device's default, or the first of RATES that it takes
    channels: int
    channel: int | None = None  # the only one that is recorded, from 1
    columns: tuple[int, ...] = ()  # these channels among the SERVER_CHANNELS that are opened; (): `channels` are opened


@dataclass(frozen=True)
class Recording:
    """A finished recording."""

    path: Path
    seconds: float
    sample_rate: int  # Hz
    channels: int  # of the device; the file is mono
    overflows: int  # how often sound was lost because the machine was busy
    stopped: float  # time.monotonic() at which the recording ended
    ended_by: str  # why it ended early, "" if it did not
    note: str = ""  # which channels are used, "" if all are
    zeros: float = 0.0  # seconds of exact zeros at its end, which a muted source gives, and a room hardly ever


# --- finding the microphone ------------------------------------------------------------------------------------------
def find_microphone(choice: str = "", channel: int | None = None) -> Microphone:
    """Find an input device, and try the settings that it will be recorded with.

    `choice` is its number, its name, or a part of the name that no other input contains, in upper or lower case; "" is
    the system's default. `channel` is the only channel to record, from 1; None: all.

    Raises:
        MicrophoneError: no PortAudio library, no such input device, one without that channel, or one that is busy or
            refuses its own settings.
    """
    sounddevice = _sounddevice()
    device = _chosen_input(sounddevice, choice) if choice else _default_input(sounddevice)
    server = device["max_input_channels"] >= SERVER_CHANNELS
    microphone = _openable(sounddevice, device, 2 if server else device["max_input_channels"])
    if server:
        microphone = _with_own_channels(sounddevice, microphone)
    if server and channel and not microphone.columns:
        microphone = replace(microphone, channels=max(microphone.channels, channel))
    if channel is not None and channel > microphone.channels:
        has = "1 channel" if microphone.channels == 1 else f"{microphone.channels} channels"
        raise MicrophoneError(f"the microphone {device['name']!r} has {has}; there is no channel {channel}")
    return replace(microphone, channel=channel)


def _openable(sounddevice: ModuleType, device: dict[str, Any], channels: int) -> Microphone:
    """Return the device with the first settings that it takes: all channels first, and its own rate."""
    first: Exception | None = None
    for count in sorted({channels, min(channels, 2), 1}, reverse=True):
        for rate in dict.fromkeys((round(device["default_samplerate"]), *RATES)):
            microphone = Microphone(device["index"], device["name"], rate, count)
            try:
                sounddevice.check_input_settings(**_settings(microphone))
            except sounddevice.PortAudioError as error:
                first = first or error
            else:
                return microphone
    assert first
    raise _refusal(sounddevice, microphone, first) from first


def _with_own_channels(sounddevice: ModuleType, microphone: Microphone) -> Microphone:
    """Return the microphone with all channels that the source behind a sound server has, if two do not hold them.

    A sound server makes two channels of those with a place, such as left, center and side, and leaves out the numbered
    inputs of an interface. So a moment of all channels is recorded: what is no copy of left and right is the source's.
    """
    blocks: list[np.ndarray] = []
    everything = replace(microphone, channels=SERVER_CHANNELS)
    try:
        with sounddevice.InputStream(
            **_settings(everything), latency=LATENCY, callback=lambda block, *_: blocks.append(block.copy())
        ) as stream:
            try:
                deadline = time.monotonic() + WAKE
                while time.monotonic() < deadline and not _is_enough(blocks, microphone.sample_rate):
                    time.sleep(POLL)
            finally:
                stream.abort()  # after Ctrl-C, too: see `_end`
    except sounddevice.PortAudioError:
        return microphone
    columns = own_channels(np.concatenate(blocks)) if blocks else ()
    return replace(microphone, channels=len(columns), columns=columns) if columns else microphone


def _is_enough(blocks: list[np.ndarray], rate: int) -> bool:
    sounding = sum(len(block) for block in blocks if block.any())
    return sounding >= LISTEN * rate or sum(map(len, blocks)) - sounding >= ZEROS * rate


def own_channels(block: np.ndarray) -> tuple[int, ...]:
    """Return which of all channels [T, SERVER_CHANNELS] are a source's own; () if left and right hold them."""
    left, right = block[:, 0], block[:, 1]
    tolerance = COPY * float(np.abs(block).max())
    own = []
    for column in range(2, block.shape[1]):
        copies = (np.abs(block[:, column] - made).max() <= tolerance for made in (left, right, (left + right) / 2))
        if block[:, column].any() and not any(copies):
            own.append(column)
    if not any(column >= PLACED for column in own) and len(own) < 2:  # one may be made up: the low frequencies
        return ()
    return (*(column for column in (0, 1) if block[:, column].any()), *own)


def list_microphones() -> list[str]:
    """Describe each input device in a line: number, name, channels, sample rate, and which is the default.

    Raises:
        MicrophoneError: no PortAudio library, or no input device.
    """
    sounddevice = _sounddevice()
    default = _default_input(sounddevice)["index"]
    return [
        f"{device['index']:3} {device['name']}  ({device['max_input_channels']} channels, "
        f"{device['default_samplerate']:.0f} Hz){'  default' if device['index'] == default else ''}"
        for device in _inputs(sounddevice)
    ]


def forget_devices() -> None:
    """Let the next call look for devices again; PortAudio looks for them only once."""
    sounddevice = _sounddevice()
    sounddevice._terminate()
    sounddevice._initialize()


def _inputs(sounddevice: ModuleType) -> list[dict[str, Any]]:
    return [device for device in _all_devices(sounddevice) if device["max_input_channels"] > 0]


def _all_devices(sounddevice: ModuleType) -> list[dict[str, Any]]:
    """Return all devices but those whose names are not text."""
    try:
        return list(sounddevice.query_devices())
    except UnicodeDecodeError:
        devices = []
        with suppress(sounddevice.PortAudioError):  # there are no more
            for number in range(MOST_DEVICES):
                with suppress(UnicodeDecodeError):
                    devices.append(sounddevice.query_devices(number))
        return devices


def _default_input(sounddevice: ModuleType) -> dict[str, Any]:
    try:
        return sounddevice.query_devices(kind="input")
    except UnicodeDecodeError:
        raise MicrophoneError(
            f"the name of the system's microphone is not text; choose one by its number ({_devices(sounddevice)})"
        ) from None
    except (sounddevice.PortAudioError, ValueError):  # ValueError: an output is the only device
        raise MicrophoneError(f"there is no microphone ({_devices(sounddevice)})") from None


def _chosen_input(sounddevice: ModuleType, choice: str) -> dict[str, Any]:
    inputs = _inputs(sounddevice)
    wanted = choice.strip().casefold()
    found = (
        [device for device in inputs if str(device["index"]) == wanted]
        or [device for device in inputs if device["name"].casefold() == wanted]
        or [device for device in inputs if wanted in device["name"].casefold()]
    )
    if len(found) == 1:
        return found[0]
    problem = (
        f"{len(found)} microphones have {choice!r} in their names" if found else f"there is no microphone {choice}"
    )
    raise MicrophoneError(f"{problem} ({_devices(sounddevice)})")


def _sounddevice() -> ModuleType:
    try:
        import sounddevice
    except OSError as error:
        raise MicrophoneError(f"the microphone needs the PortAudio library ({error}): {install_hint()}") from None
    return sounddevice


def install_hint() -> str:
    """Return the command that installs PortAudio on this system, or the name of the library to look for."""
    if sys.platform == "darwin":
        return "brew install portaudio"
    if sys.platform == "win32":
        return "pip install --force-reinstall sounddevice (its wheels bring PortAudio along)"
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    for name in (release.get("ID", ""), *release.get("ID_LIKE", "").split()):
        if name in INSTALL_PORTAUDIO:
            return INSTALL_PORTAUDIO[name]
    return "install the package of this system that holds libportaudio.so.2"


def _settings(microphone: Microphone) -> dict[str, Any]:
    return {
        "device": microphone.index,
        "channels": SERVER_CHANNELS if microphone.columns else microphone.channels,
        "samplerate": microphone.sample_rate,
        "dtype": "float32",
    }


def _devices(sounddevice: ModuleType) -> str:
    devices = [
        f"{device['index']} {device['name']} ({device['max_input_channels']} in, {device['max_output_channels']} out)"
        for device in _all_devices(sounddevice)
    ]
    return f"devices: {', '.join(devices)}" if devices else "no sound device at all"


def _refusal(sounddevice: ModuleType, microphone: Microphone, error: Exception) -> MicrophoneError:
    return MicrophoneError(f"the microphone {microphone.name!r} cannot be opened: {error} ({_devices(sounddevice)})")


# --- recording -------------------------------------------------------------------------------------------------------
def record(
    path: Path, microphone: Microphone, stop: Callable[[], bool], started: Callable[[], None], on_block: OnBlock
) -> Recording:
    """Record to `path`, 16-bit mono wav, until `stop()` is true; `started()` is called once the first sound has come.

    Zeros at the beginning, from a device that wakes up, are left out for up to FIRST_SOUND seconds. The file grows as
    sound comes, and its header is always up to date. Ctrl-C and SystemExit also end the recording; the part recorded
    until then is kept. It is also kept if the microphone is unplugged or the disk is full: `Recording.ended_by` says
    so.

    Args:
        path: a new file.
        microphone: from `find_microphone`.
        stop: asked a hundred times a second whether to end.
        started: called once.
        on_block: called with every block once it is written, mixed to mono as far as can be told until then.

    Raises:
        MicrophoneError: the microphone cannot be opened, or no sound comes from it; `path` is removed.
        OSError: the file cannot be made, or exists already.
    """
    with _WavWriter(path, microphone, on_block) as writer:
        ended_by = _capture(microphone, writer, stop, started)
    return Recording(
        path=path,
        seconds=writer.frames / microphone.sample_rate,
        sample_rate=microphone.sample_rate,
        channels=microphone.channels,
        overflows=writer.overflows,
        stopped=writer.stopped,
        ended_by=ended_by,
        note=writer.choice.note,
        zeros=writer.zeros / microphone.sample_rate,
    )


def _capture(
    microphone: Microphone, writer: "_WavWriter", stop: Callable[[], bool], started: Callable[[], None]
) -> str:
    """Open the microphone and write sound until `stop()`; return why the recording ended earlier, or ""."""
    sounddevice = _sounddevice()
    try:
        with sounddevice.InputStream(**_settings(microphone), latency=LATENCY, callback=writer.receive) as stream:
            try:
                _await_sound(writer, stream)
                failure, stopped = _await_waking(writer, stream, stop)
                if writer.refusal:
                    raise writer.refusal
                if not stopped:
                    started()
                while not (failure or stopped or stop()):
                    time.sleep(POLL)
                    gone = not stream.active  # checked before the last blocks are fetched
                    gone = gone or time.monotonic() - writer.received > STALLED
                    failure = writer.write_waiting() or ("the microphone went away" if gone else "")
            finally:
                writer.stopped = time.monotonic()
                _end(stream, writer)
    except sounddevice.PortAudioError as error:
        raise _refusal(sounddevice, microphone, error) from error
    return failure or writer.write_waiting()


def _end(stream: Any, writer: "_WavWriter") -> None:
    """End the stream at once, after the block that is on its way, if it comes soon.

    PortAudio's `stop` is not called while the stream runs: it waits for sound, which does not come from a microphone
    that was unplugged, or that the sound server has put to sleep.
    """
    received, deadline = writer.received, time.monotonic() + LAST_BLOCK
    while stream.active and writer.received == received and time.monotonic() < deadline:
        time.sleep(POLL)
    stream.abort()


def _await_sound(writer: "_WavWriter", stream: Any) -> None:
    deadline = time.monotonic() + FIRST_SOUND
    while writer.blocks.empty():
        if not stream.active or time.monotonic() > deadline:
            raise MicrophoneError("no sound comes from the microphone: is it plugged in, and may this program use it?")
        time.sleep(POLL)


def _await_waking(writer: "_WavWriter", stream: Any, stop: Callable[[], bool]) -> tuple[str, bool]:
    """Wait until something other than zeros comes, but not for long; return what went wrong, and whether to stop."""
    deadline = time.monotonic() + ASLEEP
    while not (failure := writer.write_waiting()) and not writer.awake and time.monotonic() < deadline:
        if not stream.active or stop():
            return failure, True
        time.sleep(POLL)
    return failure, False


class _WavWriter:
    """Writes blocks of sound to a wav file, from a queue that PortAudio's thread fills."""

    def __init__(self, path: Path, microphone: Microphone, on_block: OnBlock) -> None:
        # blocks [T, channels] and their number of clipped frames
        self.blocks: queue.Queue[tuple[np.ndarray, int]] = queue.Queue(MAX_WAITING)
        self.awake = False  # whether anything but zeros has come
        self.frames = 0
        self.zeros = 0  # frames at the end in which all channels are exactly 0
        self.overflows = 0
        self.received = time.monotonic()  # when the last block came
        self.stopped = 0.0  # time.monotonic() at which the recording ended
        self.refusal: OSError | None = None  # the error of the disk, after which nothing is written
        self.choice = Choice()
        self._rate, self._columns, self._channel = microphone.sample_rate, microphone.columns, microphone.channel
        self._channels = 1 if microphone.channel else microphone.channels  # of the file, until it is mixed
        self._levels = ChannelLevels(self._rate, self._channels)
        self._zeros = 0  # frames at the beginning that were left out
        self._on_block = on_block
        self._path = path
        self._file = path.open("xb")
        self._wav = wave.open(self._file, "wb")  # noqa: SIM115 (closed by __exit__)
        self._wav.setnchannels(self._channels)
        self._wav.setsampwidth(SAMPLE_BYTES)
        self._wav.setframerate(microphone.sample_rate)

    def __enter__(self) -> "_WavWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.write_waiting()
        if not self.awake and not self.refusal:
            self._write(np.zeros((self._zeros, self._channels), np.float32), 0)  # nothing else came
        with suppress(OSError):  # a full disk, which write_waiting() has reported
            self._wav.close()
        with suppress(OSError):
            self._file.close()
        if not self.frames:
            self._path.unlink(missing_ok=True)
        elif self._channels > 1:
            with suppress(OSError):  # then all channels stay, and whoever reads the file mixes them
                self._mix()

    def receive(self, block: np.ndarray, frames: int, when: Any, status: Any) -> None:
        """Put a block [T, channels] into the queue. PortAudio's thread calls this, and must never wait."""
        self.received = time.monotonic()
        self.overflows += bool(status.input_overflow)
        if self._columns:
            block = block[:, self._columns]
        clipped = count_clipped(block)  # before the channels are mixed, which hides it
        try:
            used = block if self._channel is None else block[:, self._channel - 1 : self._channel]
            self.blocks.put_nowait((used.copy(), clipped))
        except queue.Full:
            self.overflows += 1

    def write_waiting(self) -> str:
        """Write the blocks in the queue; return what went wrong, or ""."""
        for _ in range(self.blocks.qsize()):  # not "until it is empty": with a slow disk that would never end
            block, clipped = self.blocks.get_nowait()
            if not self.awake:
                block = self._without_zeros(block)
            if len(block) and (failure := self._write(block, clipped)):
                return failure
        return ""

    def _without_zeros(self, block: np.ndarray) -> np.ndarray:
        """Leave out zeros at the beginning, from a device that wakes up."""
        sounding = np.flatnonzero(block.any(axis=1))
        first = int(sounding[0]) if len(sounding) else len(block)
        self.awake = len(sounding) > 0
        if self._zeros + first > FIRST_SOUND * self._rate:  # it is silent, not asleep
            self.awake = True
            return block
        self._zeros += first
        return block[first:]

    def _write(self, block: np.ndarray, clipped: int) -> str:
        """Write a block [T, channels]; return what went wrong, or ""."""
        if (self.frames + len(block)) * self._channels * SAMPLE_BYTES > WAV_BYTES:
            return "a wav file can hold no more"
        try:
            self._wav.writeframes(_to_int16(block))  # also brings the header up to date
            self._file.flush()
        except OSError as error:
            self.refusal = OSError(error.errno, error.strerror, str(self._path.parent))
            return f"the recording cannot be written ({(error.strerror or '').lower()})"
        self.frames += len(block)
        sound = np.flatnonzero(block.any(axis=1))
        self.zeros = len(block) - 1 - int(sound[-1]) if sound.size else self.zeros + len(block)
        if self._channels > 1:
            self._levels.add(block)
            self.choice = self._levels.choice()
        self._on_block(self.choice.mono(block), clipped)
        return ""

    def _mix(self) -> None:
        """Replace the file by the average of the channels that have sound."""
        with (
            atomic_path(self._path) as temporary,
            wave.open(str(self._path), "rb") as channels,
            wave.open(str(temporary), "wb") as mono,
        ):
            mono.setparams((1, SAMPLE_BYTES, self._rate, 0, "NONE", ""))
            while data := channels.readframes(MIXED // self._channels):
                block = np.frombuffer(data, "<i2").reshape(-1, self._channels).astype(np.float32) / 32768
                mono.writeframes(_to_int16(self.choice.mono(block)))


def _to_int16(samples: np.ndarray) -> bytes:
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2").tobytes()
