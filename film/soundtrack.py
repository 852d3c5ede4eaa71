"""The sound of a film: a recording of any kind at the one sample rate that films have.

It is decoded by what decodes recordings for latents, so sound and images begin together, whatever times the recording's
file gives.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soxr

from audio.channels import average
from audio.decoding import open_sound
from audio.sound import AudioError, naming

SAMPLE_RATE = 48_000  # Hz, which AAC and Opus have, and any player


class Soundtrack:
    """Sound that is read as a film goes on."""

    def __init__(self, blocks: Iterator[np.ndarray], channels: int) -> None:
        """Take blocks [T, channels] float32 at SAMPLE_RATE."""
        self.channels = channels
        self._blocks = blocks
        self._rest: np.ndarray = np.zeros((0, channels), np.float32)
        self._given = 0

    def until(self, seconds: float) -> np.ndarray:
        """Return the samples [T, channels] up to a time that have not been returned yet; fewer at the sound's end."""
        wanted = round(seconds * SAMPLE_RATE) - self._given
        pieces, held = [self._rest], len(self._rest)
        while held < wanted and (block := next(self._blocks, None)) is not None:
            pieces.append(block)
            held += len(block)
        sound = np.concatenate(pieces)
        self._rest = sound[max(0, wanted) :]
        self._given += len(taken := sound[: max(0, wanted)])
        return taken


@contextlib.contextmanager
def open_soundtrack(path: Path) -> Iterator[Soundtrack]:
    """Open a recording; mono stays mono and stereo stereo, and more channels become their average.

    Raises:
        AudioError: not a recording, or broken; also while it is read.
        OSError: it cannot be read.
    """
    with naming(path), open_sound(path) as sound:
        channels = min(sound.channels, 2) if sound.channels <= 2 else 1
        blocks = (block if block.shape[1] == channels else average(block)[:, None] for block in sound.blocks)
        yield Soundtrack(_resampled(map(_finite, blocks), sound.sample_rate, channels), channels)


def _finite(block: np.ndarray) -> np.ndarray:
    if not np.isfinite(block).all():
        raise AudioError("the recording has samples that are not finite numbers; export it again, e.g. as 16-bit wav")
    return block


def _resampled(blocks: Iterator[np.ndarray], source_rate: int, channels: int) -> Iterator[np.ndarray]:
    if source_rate == SAMPLE_RATE:
        yield from blocks
        return
    stream = soxr.ResampleStream(source_rate, SAMPLE_RATE, channels, dtype="float32", quality="soxr_hq")
    for block in blocks:
        yield stream.resample_chunk(np.ascontiguousarray(block)).reshape(-1, channels)
    yield stream.resample_chunk(np.zeros((0, channels), np.float32), last=True).reshape(-1, channels)
