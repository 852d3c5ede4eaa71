"""A sound system for tests: PulseAudio with a null sink, which is played to and recorded from like a microphone."""

import ctypes.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("pulseaudio", "pactl", "paplay")
PULSE_IS_DEFAULT = "pcm.!default pulse\nctl.!default pulse\n"  # of ALSA, through which PortAudio records
HUM = "6%"  # the volume of a hum of -79 dBFS, which the program calls silence
READY = 120.0  # seconds that a busy machine may take to start the server


def missing() -> str:
    """Name what the sound system lacks on this machine; "" if nothing."""
    lacking = [name for name in PROGRAMS if not shutil.which(name)]
    if not ctypes.util.find_library("portaudio"):
        lacking.append("libportaudio2")
    return f"needs {', '.join(lacking)} (and ALSA's pulse plugin)" if lacking else ""


def must_be_there() -> bool:
    """Tell whether a missing sound system is a failure: in a CI that can install it, and where .ci/run says so."""
    if sys.platform != "linux":
        return False
    required = bool(os.environ.get("VOICETOIMG_REQUIRE_SOUND"))
    return required or (bool(os.environ.get("CI")) and os.geteuid() == 0)


class SoundServer:
    """A running PulseAudio of its own, and the environment in which programs use it."""

    def __init__(self, folder: Path, layout: str, hums: bool) -> None:
        self.environment = silent_environment(folder)
        (folder / ".asoundrc").write_text(PULSE_IS_DEFAULT)
        options = ["-n", "--daemonize=no", "--exit-idle-time=-1", "-L", "module-native-protocol-unix"]
        # with rewinds, the sink takes blocks of two seconds, and all that plays or records waits for them
        microphone = f"module-null-sink sink_name=mic rate=48000 norewinds=1 {layout}"
        self._hum = ("-L", "module-sine sink=mic frequency=100") if hums else ()
        self.log = (folder / "pulseaudio.log").open("wb")
        self.process = subprocess.Popen(
            ["pulseaudio", *options, "-L", microphone, *self._hum],
            env=self.environment,
            stdout=self.log,
            stderr=self.log,
        )

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY
        while self._pactl("set-default-source", "mic.monitor"):
            assert self.process.poll() is None and time.monotonic() < deadline, Path(self.log.name).read_text()
            time.sleep(0.02)
        assert not self._hum or not self._pactl("set-sink-input-volume", "0", HUM)

    def _pactl(self, *arguments: str) -> int:
        command = ["pactl", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, timeout=READY).returncode

    def speak(self, wav: Path, *options: str) -> None:
        """Play a file to the microphone, and wait for its end."""
        subprocess.run(["paplay", "--device=mic", *options, str(wav)], env=self.environment, check=True, timeout=READY)

    def suspend(self) -> None:
        """Let no more sound come from the microphone, not even silence."""
        assert not self._pactl("suspend-sink", "mic", "1")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def silent_environment(folder: Path) -> dict[str, str]:
    """Return an environment with the home `folder`, without a sound server, where none is started on demand."""
    folder.chmod(0o700)
    (folder / "client.conf").write_text("autospawn = no\n")
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PULSE_")}
    return variables | {
        "HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder),
        "XDG_CONFIG_HOME": str(folder / ".config"),
        "PULSE_RUNTIME_PATH": str(folder / "pulse"),
        "PULSE_CLIENTCONFIG": str(folder / "client.conf"),
        "PYTHONPATH": str(ROOT),
    }


@contextmanager
def sound_server(layout: str = "channels=1", hums: bool = False) -> Iterator[SoundServer]:
    """Run a server for the length of a block.

    Args:
        layout: that of the microphone, as pulseaudio takes it.
        hums: a soft hum comes from it, as from any that is awake. Without it come exact zeros, after which the recorder
            waits for seconds.
    """
    with tempfile.TemporaryDirectory(prefix="mic-") as folder:  # short, as a socket's path must be
        server = SoundServer(Path(folder), layout, hums)
        try:
            server.wait_until_ready()
            yield server
        finally:
            server.stop()


def likeness(recorded: Path, played: Path) -> float:
    """Return the normalised cross-correlation of `played` with the best matching stretch of a recording, -1..1."""
    import numpy as np  # here, because every worker of pytest imports this module
    import soundfile
    import soxr
    from scipy import signal as scipy_signal

    channels, rate = soundfile.read(recorded, dtype="float64", always_2d=True)
    recording = np.pad(channels.mean(axis=1), rate // 10)  # it may begin with the voice
    voice, voice_rate = soundfile.read(played, dtype="float64")
    voice = soxr.resample(voice, voice_rate, rate)
    heard = np.flatnonzero(np.abs(voice) > 0.01 * np.abs(voice).max())
    voice = voice[heard[0] : heard[-1] + 1]  # silence at the beginning of a recording is left out
    if recording.size < voice.size:
        return 0.0
    products = scipy_signal.correlate(recording, voice, mode="valid", method="fft")
    start = int(products.argmax())
    stretch = recording[start : start + voice.size]
    return float(products[start] / (np.linalg.norm(stretch) * np.linalg.norm(voice)))
