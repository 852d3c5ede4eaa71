"""Latents along a recording: one for each window of a few seconds, one window every hop.

Their file is one of latents [N, 4, 32, 32] as any other (`provenance.py`), with one more record: when each window
begins, how long they are, and which recording they are of.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .files import atomic_path
from .provenance import note, read_latents, read_record
from .torch_zip import write_tensor

WINDOWS = "windows.json"  # the record
LONGEST_RECORD = 64_000_000  # bytes: the times of some million windows
SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class Timeline:
    """Windows of a recording."""

    times: np.ndarray  # [N] float64, seconds: when each window begins
    window: float  # seconds, the length of each window
    hop: float  # seconds from the beginning of one window to that of the next
    sha256: str  # of the recording's file
    seconds: float  # length of the recording


@dataclass(frozen=True, eq=False)
class Windows(Timeline):
    """Latents along a recording."""

    latents: np.ndarray  # [N, 4, 32, 32] float32: z-scores


def read_windows(path: Path) -> Windows:
    """Read latents along a recording from a .pt file; nothing in the file is executed.

    Raises:
        ValueError: the file holds something else, latents without times, or damaged ones.
        OSError: it cannot be read.
    """
    latents = read_latents(path).numpy()
    try:
        about = json.loads(read_record(path, WINDOWS, LONGEST_RECORD))
    except Exception as error:  # no zip archive, no such record, or damage, for which zipfile raises nearly any error
        raise ValueError(
            f"{path} holds {len(latents)} latents without times; latents along a recording are needed"
        ) from error
    if (found := _checked(about, latents)) is None:
        raise ValueError(f"{path} holds times that do not fit its {len(latents)} latents: make it again")
    return found


def _checked(about: Any, latents: np.ndarray) -> Windows | None:
    """Put latents and what their record says together; None if the record holds anything else."""
    try:
        times = np.array(about["times"], np.float64)
        window, hop, seconds = (float(about[name]) for name in ("window", "hop", "seconds"))
        sha256 = about["recording_sha256"]
    except (TypeError, ValueError, KeyError, OverflowError, RecursionError):
        return None
    numbers = all(math.isfinite(number) and number > 0 for number in (window, hop, seconds))
    if times.shape != (len(latents),) or not numbers or not (isinstance(sha256, str) and SHA256.fullmatch(sha256)):
        return None
    rising = np.isfinite(times).all() and times[0] >= 0 and (np.diff(times) > 0).all()
    return Windows(times, window, hop, sha256, seconds, latents) if rising else None


def write_windows(
    path: Path,
    timeline: Timeline,
    shape: tuple[int, int, int],
    blocks: Iterable[np.ndarray],
    statistics: str | None,
    names: Sequence[str] = (),
) -> None:
    """Write latents along a recording to the .pt file `path` atomically; memory does not grow with their number.

    Args:
        path: of the file.
        timeline: the windows.
        shape: of the latents of one window, (4, 32, 32).
        blocks: the latents of all windows, arrays [n, 4, 32, 32] float32.
        statistics: see `provenance.save_latents`.
        names: see `provenance.save_latents`.

    Raises:
        OSError: the file cannot be written.
    """
    record = {
        "window": timeline.window,
        "hop": timeline.hop,
        "seconds": timeline.seconds,
        "recording_sha256": timeline.sha256,
        "times": timeline.times.tolist(),
    }
    with atomic_path(path) as temporary:
        with temporary.open("wb") as file:
            write_tensor(file, (len(timeline.times), *shape), blocks)
        note(temporary, statistics, names, {WINDOWS: record})
