"""The files of one running show: nobody else writes to them, and no recording is lost.

The first show in a folder has `temp_live_audio.wav` and `live_latent.pt`, as config names them, a second one at the
same time `temp_live_audio_2.wav` and `live_latent_2.pt`. Until it is used, a recording lies under a hidden name, which
begins with that of the show's wav; then it takes the place of the one before. That one is set aside first, unless a
picture was made of it: until then a hidden empty file says so. Whatever ends the program, the next show that has the
names finds both.
"""

import itertools
import os
import re
import secrets
import sys
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import config
from files import alternatives, reserve

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

WORTH = config.SHORT_SECONDS  # seconds; a shorter recording is not missed


class RunFiles:
    """The names that a show has for itself, while it holds their lock (`claim_run_files`)."""

    def __init__(self, number: int) -> None:
        self.number = number  # of the shows at work in this folder, from 1
        self.wav, self.latent = (
            path if number == 1 else path.with_stem(f"{path.stem}_{number}")
            for path in (config.TEMP_AUDIO_WAV, config.LIVE_LATENT_PT)
        )
        self._unpainted = self.wav.with_name(f".{self.wav.stem}.unpainted")  # is there while `wav` has no picture

    def new_recording(self) -> Path:
        """A name for the next recording."""
        return self.wav.with_name(f".{self.wav.stem}.{secrets.token_hex(4)}{self.wav.suffix}")

    def publish(self, recording: Path) -> Path | None:
        """Make a recording `wav`; return where the one before is now, if no picture was made of it."""
        earlier = None
        if self._unpainted.exists() and self.wav.exists():
            earlier = self.set_aside(self.wav)
        self._unpainted.touch()
        os.replace(recording, self.wav)
        return earlier

    def painted(self) -> None:
        """A picture was made of `wav`: the next recording may replace it."""
        self._unpainted.unlink(missing_ok=True)

    def set_aside(self, path: Path) -> Path:
        """Give a recording, or the latent, a name that no other will take, of the time; return its new path."""
        named = self.latent if path == self.latent else self.wav
        name = f"{named.stem}_{time.strftime('%Y-%m-%d_%H-%M-%S')}{named.suffix}"
        target = reserve(named.parent, alternatives(name))  # not `reserved`: once moved, nothing may remove it
        try:
            os.replace(path, target)
        except OSError:
            target.unlink()
            raise
        if path == self.wav:
            self.painted()
        return target

    def unused(self) -> list[Path]:
        """Recordings of this show that nothing was done with yet, the oldest first."""
        return sorted(self._hidden(), key=lambda path: path.stat().st_mtime)

    def rescue(self) -> list[Path]:
        """Set aside what shows that were killed have recorded; return where it is."""
        rescued = self._rescue()
        others = (re.match(rf"\.{config.TEMP_AUDIO_WAV.stem}_(\d+)\.", path.name) for path in self._hidden("_*"))
        for number in {int(match[1]) for match in others if match} - {self.number}:
            with _held(RunFiles(number)) as other:
                rescued += other._rescue() if other else []  # None: its show is at work
        return rescued

    def _rescue(self) -> list[Path]:
        rescued = []
        for path in self.unused():
            if seconds_of(path) < WORTH:
                path.unlink(missing_ok=True)
            else:
                rescued.append(self.set_aside(path))
        return rescued

    def _hidden(self, more: str = "") -> list[Path]:
        return list(self.wav.parent.glob(f".{self.wav.stem}{more}.*{self.wav.suffix}"))


def seconds_of(wav: Path) -> float:
    """Length of a wav file; where its header cannot be read, what its size would hold at the rate of most devices."""
    try:
        with wave.open(str(wav)) as file:
            return file.getnframes() / file.getframerate()
    except (wave.Error, EOFError, ZeroDivisionError, PermissionError):
        return wav.stat().st_size / (2 * 48_000)


@contextmanager
def claim_run_files() -> Iterator[RunFiles]:
    """The first names that no other show has; they are free again at the end, whatever ends the program.

    Raises:
        OSError: the folder cannot be written to.
    """
    config.ROOT_DIR.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        with _held(RunFiles(number)) as folder:
            if folder:
                yield folder
                return


@contextmanager
def _held(folder: RunFiles) -> Iterator[RunFiles | None]:
    """The folder with the lock of its names; None if another show has it."""
    lock = folder.wav.with_name(f".{folder.wav.stem}.lock")
    descriptor = _locked(lock)
    if descriptor is None:
        yield None
        return
    try:
        yield folder
    finally:
        with suppress(PermissionError):  # Windows removes no file that is open
            lock.unlink(missing_ok=True)  # before it is unlocked, see _locked
        os.close(descriptor)


def _locked(path: Path) -> int | None:
    """A descriptor of the lock file, locked until it is closed or the process ends; None if another has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if sys.platform == "win32":
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError | PermissionError):  # POSIX, Windows
                return None
            raise  # a file system without locks
        # whoever had the lock may have removed the file in between: then this is the lock of a file that is gone
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        os.close(descriptor)
