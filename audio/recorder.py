"""The microphone: sound streamed to disk as it comes, mixed to mono, at the device's own sample rate.

PortAudio's thread puts blocks into a queue, the calling thread writes them to a file; the whole recording is never in
memory, and the file can be read whatever ends the program. `sounddevice` is imported only when a microphone is used,
because it needs the PortAudio library.
"""

import math
import platform
import queue
import sys
import time
import wave
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

LATENCY = 0.1  # seconds of sound that PortAudio may hold while the machine is busy elsewhere
FIRST_SOUND = 5.0  # seconds; a Bluetooth headset takes two to wake up
STALLED = 3.0  # seconds without any sound, not even silence, after which a microphone has gone
POLL = 0.01  # seconds between two looks at `stop` and at the queue
MAX_WAITING = 1024  # blocks in the queue, 9 s or more; beyond it a slow disk loses sound, not memory
SERVER_CHANNELS = 32  # a "device" with so many inputs is a sound server, which makes up any number asked for
SILENCE_DBFS = -120.0  # the level of no sound at all
FULL_SCALE = 0.999  # a sample above this is as loud as the device can say
SAMPLE_BYTES = 2
WAV_BYTES = 2**32 - 64  # what the sizes in a wav file's header can say

Heard = Callable[[np.ndarray, int], None]  # a block [T] float32, mono, and how many of its frames are clipped

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
    """There is no microphone that can be used; the message, one line, says why and what to do."""


@dataclass(frozen=True)
class Microphone:
    """An input device that can be opened."""

    index: int  # PortAudio's number
    name: str
    sample_rate: int  # Hz, the device's default
    channels: int


@dataclass(frozen=True)
class Recording:
    """What was recorded, and what is worth knowing about it."""

    path: Path
    seconds: float
    sample_rate: int  # Hz
    channels: int  # of the device; the file is mono
    overflows: int  # times that sound was lost because the machine was busy
    stopped: float  # time.monotonic() at which the recording ended
    ended_by: str  # why it ended before it was asked to, "" if it did not


# --- finding the microphone ------------------------------------------------------------------------------------------
def find_microphone(choice: str = "") -> Microphone:
    """Return an input device, tried with the settings that it will be recorded with.

    `choice` is its number, its name, or a part of the name that no other input has in it, whatever the case; "" is the
    system's default.

    Raises:
        MicrophoneError: no PortAudio library, no such input device, or one that is busy or refuses its own settings.
    """
    sounddevice = _sounddevice()
    device = _chosen_input(sounddevice, choice) if choice else _default_input(sounddevice)
    offered = device["max_input_channels"]
    microphone = Microphone(
        index=device["index"],
        name=device["name"],
        sample_rate=round(device["default_samplerate"]),
        channels=2 if offered >= SERVER_CHANNELS else offered,
    )
    try:
        sounddevice.check_input_settings(**_settings(microphone))
    except sounddevice.PortAudioError as error:
        raise _refusal(sounddevice, microphone, error) from error
    return microphone


def list_microphones() -> list[str]:
    """One line for each input device: number, name, channels, sample rate, and which is the default.

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
    """Look again what is plugged in, when a microphone is wanted next. PortAudio notes that down only once."""
    sounddevice = _sounddevice()
    sounddevice._terminate()
    sounddevice._initialize()


def _inputs(sounddevice: ModuleType) -> list[dict[str, Any]]:
    return [device for device in sounddevice.query_devices() if device["max_input_channels"] > 0]


def _default_input(sounddevice: ModuleType) -> dict[str, Any]:
    try:
        return sounddevice.query_devices(kind="input")
    except (sounddevice.PortAudioError, ValueError):  # ValueError: an output is the only device
        raise MicrophoneError(f"there is no microphone ({_devices(sounddevice)})") from None


def _chosen_input(sounddevice: ModuleType, choice: str) -> dict[str, Any]:
    inputs = _inputs(sounddevice)
    wanted = choice.strip().casefold()
    if wanted.isdecimal():
        found = [device for device in inputs if device["index"] == int(wanted)]
    else:
        found = [device for device in inputs if device["name"].casefold() == wanted] or [
            device for device in inputs if wanted in device["name"].casefold()
        ]
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
    """The command that installs PortAudio on this system, or what to look for."""
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
        "channels": microphone.channels,
        "samplerate": microphone.sample_rate,
        "dtype": "float32",
    }


def _devices(sounddevice: ModuleType) -> str:
    devices = [
        f"{device['index']} {device['name']} ({device['max_input_channels']} in, {device['max_output_channels']} out)"
        for device in sounddevice.query_devices()
    ]
    return f"devices: {', '.join(devices)}" if devices else "no sound device at all"


def _refusal(sounddevice: ModuleType, microphone: Microphone, error: Exception) -> MicrophoneError:
    return MicrophoneError(f"the microphone {microphone.name!r} cannot be opened: {error} ({_devices(sounddevice)})")


# --- recording -------------------------------------------------------------------------------------------------------
def record(
    path: Path, microphone: Microphone, stop: Callable[[], bool], started: Callable[[], None], heard: Heard
) -> Recording:
    """Record to `path`, 16-bit mono wav, until `stop()` is true; `started()` is called once the first sound has come.

    `heard` is given every block once it is written. The file grows as sound comes, and its header tells at any time
    how much there is. Ctrl-C and SystemExit end the recording too, and what was recorded until then is kept. So is
    what was recorded until the microphone went away or the disk was full: `Recording.ended_by` says so.

    Raises:
        MicrophoneError: the microphone cannot be opened, or no sound comes from it; `path` is gone again.
        OSError: the file cannot be made, or is there already.
    """
    with _Tape(path, microphone.sample_rate, heard) as tape:
        ended_by = _capture(microphone, tape, stop, started)
    return Recording(
        path=path,
        seconds=tape.frames / microphone.sample_rate,
        sample_rate=microphone.sample_rate,
        channels=microphone.channels,
        overflows=tape.overflows,
        stopped=tape.stopped,
        ended_by=ended_by,
    )


def decibels(amplitude: float) -> float:
    """dB of full scale, for an amplitude or a root mean square of which 1.0 is full scale."""
    return max(SILENCE_DBFS, 20 * math.log10(amplitude)) if amplitude > 0 else SILENCE_DBFS


def _capture(microphone: Microphone, tape: "_Tape", stop: Callable[[], bool], started: Callable[[], None]) -> str:
    """Open the microphone and write what comes until `stop()`; return why it ended earlier, or ""."""
    sounddevice = _sounddevice()
    try:
        with sounddevice.InputStream(**_settings(microphone), latency=LATENCY, callback=tape.receive) as stream:
            try:
                _await_sound(tape, stream)
                failure = tape.write_waiting()
                if tape.refusal:
                    raise tape.refusal
                started()
                while not failure and not stop():
                    time.sleep(POLL)
                    gone = not stream.active  # asked before the last blocks are fetched
                    if time.monotonic() - tape.received > STALLED:
                        gone = True
                        stream.abort()  # leaving the block would wait for sound that does not come
                    failure = tape.write_waiting() or ("the microphone went away" if gone else "")
            finally:
                tape.stopped = time.monotonic()
    except sounddevice.PortAudioError as error:
        raise _refusal(sounddevice, microphone, error) from error
    return failure or tape.write_waiting()


def _await_sound(tape: "_Tape", stream: Any) -> None:
    deadline = time.monotonic() + FIRST_SOUND
    while tape.blocks.empty():
        if not stream.active or time.monotonic() > deadline:
            raise MicrophoneError("no sound comes from the microphone: is it plugged in, and may this program use it?")
        time.sleep(POLL)


class _Tape:
    """Blocks of sound on their way to a wav file, and what is known of those that are written."""

    def __init__(self, path: Path, sample_rate: int, heard: Heard) -> None:
        self.blocks: queue.Queue[tuple[np.ndarray, int]] = queue.Queue(MAX_WAITING)  # as `Heard` takes them
        self.frames = 0
        self.overflows = 0
        self.received = time.monotonic()  # when the last block came
        self.stopped = 0.0  # time.monotonic() at which nothing more was wanted
        self.refusal: OSError | None = None  # of the disk, to write any more
        self._heard = heard
        self._path = path
        self._file = path.open("xb")
        self._wav = wave.open(self._file, "wb")  # noqa: SIM115 (closed by __exit__)
        self._wav.setnchannels(1)
        self._wav.setsampwidth(SAMPLE_BYTES)
        self._wav.setframerate(sample_rate)

    def __enter__(self) -> "_Tape":
        return self

    def __exit__(self, *_: object) -> None:
        self.write_waiting()
        with suppress(OSError):  # a full disk, which write_waiting() has told of
            self._wav.close()
        with suppress(OSError):
            self._file.close()
        if not self.frames:
            self._path.unlink(missing_ok=True)

    def receive(self, block: np.ndarray, frames: int, when: Any, status: Any) -> None:
        """Called by PortAudio's thread, which must never wait: [T, channels] -> [T] into the queue."""
        self.received = time.monotonic()
        self.overflows += bool(status.input_overflow)
        clipped = int((np.abs(block) >= FULL_SCALE).any(axis=1).sum())  # of any channel: the mix hides it
        try:
            self.blocks.put_nowait((block.mean(axis=1), clipped))
        except queue.Full:
            self.overflows += 1

    def write_waiting(self) -> str:
        """Write what waits in the queue; return what went wrong, or ""."""
        for _ in range(self.blocks.qsize()):  # not "until it is empty": a slow disk would never come to an end
            block, clipped = self.blocks.get_nowait()
            if (self.frames + block.size) * SAMPLE_BYTES > WAV_BYTES:
                return "a wav file can hold no more"
            samples = np.clip(np.rint(block * 32768), -32768, 32767).astype(np.int16)
            try:
                self._wav.writeframes(samples.tobytes())  # which also brings the header up to date
                self._file.flush()
            except OSError as error:
                self.refusal = OSError(error.errno, error.strerror, str(self._path.parent))
                return f"the recording cannot be written ({(error.strerror or '').lower()})"
            self.frames += block.size
            self._heard(block, clipped)
        return ""
