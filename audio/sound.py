"""A recording while it is decoded, and the errors of decoding."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


class AudioError(ValueError):
    """A recording cannot become a vector; the message says what came, what is allowed and what to do."""


class NotAudio(AudioError):
    """Neither the content nor the name of a file says that it holds sound."""


class Silent(AudioError):
    """A recording holds nothing that can be heard."""


class DecoderEnded(OSError):
    """A decoder that failed for a reason outside the file, such as a lack of memory: worth another try."""


@contextlib.contextmanager
def naming(source: Path | str) -> Iterator[None]:
    """Name the file in errors of decoding, which do not."""
    try:
        yield
    except (AudioError, DecoderEnded) as error:
        raise type(error)(f"{source}: {error}") from error


@dataclass(frozen=True)
class Sound:
    """A recording that is being decoded."""

    sample_rate: int  # Hz
    decoder: str  # LIBSNDFILE, IN_MEMORY, or PyAV and its version
    blocks: Iterator[np.ndarray]  # each [T, channels] float32, all of one file with as many channels
    damage: Callable[[int], str] = field(default=lambda samples: "")
    # damage(n): what is missing from the file, given that n samples of a channel were decoded; "" if nothing
    channels: int = 1
    clips: bool = True  # False: floating-point samples, which may exceed full scale
    stream: int = 0  # which of the file's sound streams this is, from 0
    streams: int = 1  # how many there are
    seconds: float = 0.0  # roughly how long it is, as its header says; 0: it does not say
