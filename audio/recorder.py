"""The microphone: sound streamed to disk as it comes, mixed to mono, at the device's own sample rate.

PortAudio's thread puts blocks into a queue, the calling thread writes them to a file; the whole recording is never in
memory. `sounddevice` is imported only when a microphone is used, because it needs the PortAudio library.
"""

import math
import platform
import queue
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import soundfile

from files import atomic_path

LATENCY = 0.1  # seconds of sound that PortAudio may hold while the machine is busy elsewhere
FIRST_SOUND = 5.0  # seconds; a Bluetooth headset takes two to wake up
POLL = 0.01  # seconds between two looks at `stop` and at the queue
MAX_WAITING = 1024  # blocks in the queue, 9 s or more; beyond it a slow disk loses sound, not memory
SERVER_CHANNELS = 32  # a "device" with so many inputs is a sound server, which makes up any number asked for
SILENCE_DBFS = -120.0  # the level of no sound at all

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
    peak: float  # loudest sample of the mix, 1.0 is full scale
    rms_dbfs: float  # level of the whole, dB of full scale
    overflows: int  # times that sound was lost because the machine was busy
    stopped: float  # time.monotonic() at which the recording ended
    ended_by: str  # why it ended before it was asked to, "" if it did not


# --- finding the microphone ------------------------------------------------------------------------------------------
def find_microphone() -> Microphone:
    """Return the default input device, tried with the settings that it will be recorded with.

    Raises:
        MicrophoneError: no PortAudio library, no input device, or one that is busy or refuses its own settings.
    """
    sounddevice = _sounddevice()
    try:
        device = sounddevice.query_devices(kind="input")
    except sounddevice.PortAudioError:
        raise MicrophoneError(f"there is no microphone ({_devices(sounddevice)})") from None
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
def record(path: Path, microphone: Microphone, stop: Callable[[], bool], started: Callable[[], None]) -> Recording:
    """Record to `path`, 16-bit mono wav, until `stop()` is true; `started()` is called once the first sound has come.

    The file appears under its name at the end; an older one is replaced then. Ctrl-C and SystemExit end the recording
    too: what was recorded after `started()` is kept, and the exception goes on. So is what was recorded until the
    microphone went away or the disk was full: `Recording.ended_by` says so.

    Raises:
        MicrophoneError: the microphone cannot be opened, or no sound comes from it.
        OSError: the file cannot be written.
    """
    interruption: BaseException | None = None
    ended_by = ""
    with atomic_path(path) as temporary:
        temporary.touch()  # libsndfile would call every failure a "System error"
        with soundfile.SoundFile(temporary, "w", microphone.sample_rate, channels=1, subtype="PCM_16") as file:
            tape = _Tape(file)
            try:
                ended_by = _capture(microphone, tape, stop, started)
            except (KeyboardInterrupt, SystemExit) as error:
                if not tape.frames:
                    raise
                interruption = error
    if interruption is not None:
        raise interruption
    return Recording(
        path=path,
        seconds=tape.frames / microphone.sample_rate,
        sample_rate=microphone.sample_rate,
        channels=microphone.channels,
        peak=tape.peak,
        rms_dbfs=tape.rms_dbfs,
        overflows=tape.overflows,
        stopped=tape.stopped,
        ended_by=ended_by,
    )


def _capture(microphone: Microphone, tape: "_Tape", stop: Callable[[], bool], started: Callable[[], None]) -> str:
    """Open the microphone and write what comes until `stop()`; return why it ended earlier, or ""."""
    sounddevice = _sounddevice()
    try:
        with sounddevice.InputStream(**_settings(microphone), latency=LATENCY, callback=tape.receive) as stream:
            try:
                _await_sound(tape, stream)
                failure = tape.write_waiting()
                if failure:
                    raise OSError(failure)
                started()
                while not failure and not stop():
                    time.sleep(POLL)
                    gone = not stream.active  # asked before the last blocks are fetched
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
    """Blocks of sound on their way to the file, and what is known of those that are written."""

    def __init__(self, file: soundfile.SoundFile) -> None:
        self.blocks: queue.Queue[np.ndarray] = queue.Queue(MAX_WAITING)  # each [T] float32, mono
        self.frames = 0
        self.peak = 0.0
        self.overflows = 0
        self.stopped = 0.0  # time.monotonic() at which nothing more was wanted
        self._energy = 0.0  # sum of squares
        self._file = file

    def receive(self, block: np.ndarray, frames: int, when: Any, status: Any) -> None:
        """Called by PortAudio's thread, which must never wait: [T, channels] -> [T] into the queue."""
        self.overflows += bool(status.input_overflow)
        try:
            self.blocks.put_nowait(block.mean(axis=1))
        except queue.Full:
            self.overflows += 1

    def write_waiting(self) -> str:
        """Write what waits in the queue; return what went wrong, or ""."""
        for _ in range(self.blocks.qsize()):  # not "until it is empty": a slow disk would never come to an end
            block = self.blocks.get_nowait()
            try:
                self._file.write(block)
            except soundfile.SoundFileRuntimeError as error:
                return f"the recording cannot be written, is the disk full? ({error})"
            self.frames += block.size
            self.peak = max(self.peak, float(np.abs(block).max()))
            self._energy += float(np.square(block, dtype=np.float64).sum())
        return ""

    @property
    def rms_dbfs(self) -> float:
        power = self._energy / max(self.frames, 1)
        return max(SILENCE_DBFS, 10 * math.log10(power)) if power > 0 else SILENCE_DBFS
