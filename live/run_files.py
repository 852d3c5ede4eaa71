"""The names of the files that one live run writes, reserved with a lock, so that no recording is lost.

The first run in a folder uses `temp_live_audio.wav` and `live_latent.pt`, as in config; a second one at the same time
uses `temp_live_audio_2.wav` and `live_latent_2.pt`. A new recording has a hidden name that begins with that of the
run's wav. When its turn comes, it replaces the wav. If the previous recording has no image yet (a hidden marker file
says so), it is renamed first. After a crash, the next run with the same names finds the marker and the recordings.
"""

import itertools
import os
import re
import secrets
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import config
from files import alternatives, lock, reserve

MIN_SECONDS = config.SHORT_SECONDS  # shorter recordings are not worth keeping


class RunFiles:
    """The file names of one run, valid while it holds their lock (`claim_run_files`)."""

    def __init__(self, number: int) -> None:
        """Derive the names from the number of the run among those active in this folder, from 1."""
        self.number = number
        self.wav, self.latent = (
            path if number == 1 else path.with_stem(f"{path.stem}_{number}")
            for path in (config.TEMP_AUDIO_WAV, config.LIVE_LATENT_PT)
        )
        self._marker = self.wav.with_name(f".{self.wav.stem}.unpainted")  # exists while `wav` has no image

    def new_recording(self) -> Path:
        """Return a name for the next recording."""
        return self.wav.with_name(f".{self.wav.stem}.{secrets.token_hex(4)}{self.wav.suffix}")

    def publish(self, recording: Path) -> Path | None:
        """Rename a recording to `wav`; return the new path of the previous one if that has no image."""
        earlier = None
        if self._marker.exists() and self.wav.exists():
            earlier = self.set_aside(self.wav)
        self._marker.touch()
        os.replace(recording, self.wav)
        return earlier

    def mark_done(self) -> None:
        """Note that `wav` has an image: the next recording may replace it."""
        self._marker.unlink(missing_ok=True)

    def set_aside(self, path: Path) -> Path:
        """Rename a recording, or the latent, to a name with the time that nothing else uses; return its new path."""
        named = self.latent if path == self.latent else self.wav
        name = f"{named.stem}_{time.strftime('%Y-%m-%d_%H-%M-%S')}{named.suffix}"
        target = reserve(named.parent, alternatives(name))  # not `reserved`, which would remove the file after an error
        try:
            os.replace(path, target)
        except OSError:
            target.unlink()
            raise
        if path == self.wav:
            self.mark_done()
        return target

    def unused(self) -> list[Path]:
        """Return the recordings of this run that were not published yet, the oldest first."""
        return sorted(self._hidden(), key=lambda path: path.stat().st_mtime)

    def rescue(self) -> list[Path]:
        """Set aside the recordings of runs that were killed; return their new paths."""
        rescued = self._rescue()
        others = (re.match(rf"\.{config.TEMP_AUDIO_WAV.stem}_(\d+)\.", path.name) for path in self._hidden("_*"))
        for number in {int(match[1]) for match in others if match} - {self.number}:
            with _locked(RunFiles(number)) as other:
                rescued += other._rescue() if other else []  # None: that run is active
        return rescued

    def _rescue(self) -> list[Path]:
        rescued = []
        for path in self.unused():
            if seconds_of(path) < MIN_SECONDS:
                path.unlink(missing_ok=True)
            else:
                rescued.append(self.set_aside(path))
        return rescued

    def _hidden(self, more: str = "") -> list[Path]:
        return list(self.wav.parent.glob(f".{self.wav.stem}{more}.*{self.wav.suffix}"))


def seconds_of(wav: Path) -> float:
    """Return the length of a wav file; if its header is damaged, an estimate from its size at 48 kHz and 16 bits."""
    try:
        with wave.open(str(wav)) as file:
            return file.getnframes() / file.getframerate()
    except (wave.Error, EOFError, ZeroDivisionError, PermissionError):
        return wav.stat().st_size / (2 * 48_000)


@contextmanager
def claim_run_files() -> Iterator[RunFiles]:
    """Reserve the first names that no other run uses, for the time of the `with` block.

    The names become free however the program ends.

    Raises:
        OSError: the folder cannot be written to.
    """
    config.ROOT_DIR.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        with _locked(RunFiles(number)) as files:
            if files:
                yield files
                return


@contextmanager
def _locked(files: RunFiles) -> Iterator[RunFiles | None]:
    """Hold the lock of a run's names; yield None if another run holds it."""
    path = files.wav.with_name(f".{files.wav.stem}.lock")
    descriptor = _lock(path)
    if descriptor is None:
        yield None
        return
    try:
        yield files
    finally:
        with suppress(PermissionError):  # Windows does not remove an open file
            path.unlink(missing_ok=True)  # before the lock is released, see `_lock`
        os.close(descriptor)


def _lock(path: Path) -> int | None:
    """Lock a file until its descriptor is closed or the process ends; return the descriptor, None if it is locked.

    Raises:
        OSError: the folder cannot be written to, or allows no locks.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            free = lock(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise OSError(
                f"{path.parent} allows no locks ({(error.strerror or '').lower()}), so two runs could write one file; "
                "set VOICETOIMG_DATA_DIR to a folder on another disk"
            ) from error
        if not free:
            os.close(descriptor)
            return None
        # The previous holder may have removed the file after it was opened here. Then this lock is that of a file
        # without a name, and a third run could lock a new one.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        os.close(descriptor)
