"""Recordings as browsers play them: what they do not play is converted to wav."""

import shutil
import wave
from pathlib import Path

import numpy as np

from audio.decoding import open_sound
from files import atomic_path

# suffixes that the browsers of today play, not each of them all; .wav is looked into
PLAYED = {".mp3", ".ogg", ".oga", ".opus", ".flac", ".m4a", ".mp4", ".aac", ".webm", ".weba"}
LONGEST_SUFFIX = 8  # characters; a longer one is no suffix of a recording


def copy_playable(recording: Path, folder: Path, stem: str) -> tuple[str, str]:
    """Copy a recording to `folder`; return the name of the file to play, and of the original if that is another one.

    A recording that cannot be decoded is copied as it is.

    Raises:
        OSError: a file cannot be read or written.
    """
    suffix = recording.suffix.lower() if len(recording.suffix) <= LONGEST_SUFFIX else ""
    if not _is_played(recording, suffix):
        played, original = f"{stem}.wav", f"{stem}_original{suffix}"
        try:
            _to_wav(recording, folder / played)
        except ValueError:
            pass
        else:
            shutil.copyfile(recording, folder / original)
            return played, original
    shutil.copyfile(recording, folder / f"{stem}{suffix}")
    return f"{stem}{suffix}", ""


def _is_played(recording: Path, suffix: str) -> bool:
    """Tell whether browsers play a file; a wav file may hold more than they know."""
    if suffix != ".wav":
        return suffix in PLAYED
    try:
        with wave.open(str(recording), "rb"):
            return True
    except (wave.Error, EOFError):
        return False


def _to_wav(recording: Path, path: Path) -> None:
    """Write a recording as 16-bit wav at its own rate, more than two channels as their average.

    Raises:
        ValueError: it cannot be decoded.
        OSError: a file cannot be read or written.
    """
    with atomic_path(path) as temporary, open_sound(recording) as sound, wave.open(str(temporary), "wb") as file:
        file.setparams((sound.channels if sound.channels <= 2 else 1, 2, sound.sample_rate, 0, "NONE", ""))
        for block in sound.blocks:
            samples = block if sound.channels <= 2 else block.mean(axis=1)
            file.writeframesraw(np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2").tobytes())
