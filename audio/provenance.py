"""Latents on disk, the recordings that they are of, and which calibration made them.

The calibration is noted in their file, or found by trying calibrations on them.

A z-score can be turned back into dB, and so into noise, only with the mean and std that it was made with. The note is
one more record in the zip archive that torch.save writes: torch.load ignores it, and it stays when the file is copied.
A file that another program saved again has lost the note; then the calibrations at hand are tried. A second record
holds the names of the recordings, one a row, without their folders; a third one what the latents do not hold of them:
length, pitch and periodicity (`qualities.Heard`).
"""

import functools
import hashlib
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .files import atomic_path, read_tensor, sha256_of
from .qualities import UNHEARD, Heard
from .row_tables import file_names, heard_in
from .torch_zip import EPOCH
from .whitening import WHITENING_NAME, Whitening

if TYPE_CHECKING:
    from torch import Tensor

RECORD = "voicetoimg.json"
LONGEST_RECORD = 4096  # bytes
NAMES = "recordings.json"
LONGEST_NAMES = 64_000_000  # bytes: some million recordings
HEARD = "heard.json"
LONGEST_NAME = 255  # characters, as many as a file system allows
STATISTICS = "statistics_sha256"
RECORDINGS = "recordings_sha256"  # of the table of the rows
LONGEST_SECONDS, HIGHEST_PITCH_HZ = 1e6, 2000.0  # more of a recording in a file from elsewhere counts as this


def statistics_sha256(mean_db: np.ndarray, std_db: np.ndarray) -> str:
    """Compute the fingerprint of a calibration: the sha256 of mean and std as little-endian float32."""
    return hashlib.sha256(mean_db.astype("<f4").tobytes() + std_db.astype("<f4").tobytes()).hexdigest()


def save_latents(
    path: Path, latents: "Tensor", statistics: str | None, names: Sequence[str] = (), heard: Sequence[Heard] = ()
) -> None:
    """Write latents [N, C, H, W] to the .pt file `path` atomically, with a `note` of where they come from.

    Args:
        statistics: fingerprint of the calibration that made them; None if it is not known.
        names: of the recordings, one a row (`recording_name`); none if they are not known.
        heard: what the latents do not hold of the recordings, one a row; none if it is not known.

    Raises:
        OSError: the file cannot be written.
    """
    import torch  # here, so that a program that only reads notes starts faster

    with atomic_path(path) as temporary:
        try:
            with temporary.open("wb") as file:
                torch.save(latents, file)
        except RuntimeError as error:  # torch's message does not say why
            raise OSError(f"{path} cannot be written, is the disk full? ({error})") from error
        note(temporary, statistics, names, heard)


def read_latents(path: Path) -> "Tensor":
    """Read latents [N, C, H, W] float32 from a .pt file; nothing in the file is executed.

    Raises:
        ValueError: the file holds something else, no latents, or NaN or infinite elements.
        OSError: it cannot be read.
    """
    wanted = "a tensor [N, C, H, W] is needed, as prep_ldm.py and process_live_audio.py write it"
    latents = read_tensor(path, wanted)
    if latents.ndim != 4 or not latents.numel():
        raise ValueError(f"{path} holds a tensor {list(latents.shape)}: {wanted}")
    return latents


def note(
    path: Path,
    statistics: str | None,
    names: Sequence[str] = (),
    heard: Sequence[Heard] = (),
    further: Mapping[str, object] | None = None,
) -> None:
    """Add to a .pt file, as torch.save has just written it, what is known of its latents; see `save_latents`.

    `further` are more records, by name; `read_record` reads them.
    """
    records: dict[str, object] = {RECORD: {STATISTICS: statistics}} if statistics is not None else {}
    records |= {NAMES: [*names]} if names else {}
    records |= {HEARD: [astuple(one) for one in heard]} if heard else {}
    records |= further or {}
    if not records:
        return
    with zipfile.ZipFile(path, "a") as archive:
        folder = archive.namelist()[0].partition("/")[0]  # torch puts all records into one
        for record, content in records.items():
            archive.writestr(zipfile.ZipInfo(f"{folder}/{record}", EPOCH), json.dumps(content))


def read_note(path: Path) -> str | None:
    """Return the fingerprint that `note` added to the file; None if there is none, or it cannot be read."""
    try:
        return _statistics_in(read_record(path, RECORD, LONGEST_RECORD))
    except Exception:  # no zip archive, no such record, or damage, for which zipfile raises nearly any error
        return None


def recording_name(path: Path) -> str:
    """Return the name of a recording as text for people: without its folder, and without bytes that are no text."""
    return _printable(os.fsencode(path.name).decode("utf-8", "replace"))


def read_names(path: Path, rows: int) -> list[str]:
    """Return the names of the recordings that `note` added to the file, one a row.

    They are for people: a file from elsewhere may hold any text. If there are none, or not so many, all are "".
    """
    try:
        names = json.loads(read_record(path, NAMES, LONGEST_NAMES))
    except Exception:  # as in `read_note`
        names = None
    if not isinstance(names, list) or len(names) != rows or not all(isinstance(name, str) for name in names):
        return [""] * rows
    return [_printable(name)[:LONGEST_NAME] for name in names]


def read_heard(path: Path, rows: int) -> list[Heard]:
    """Return what `note` added to the file about its recordings, one a row; UNHEARD for all if there is nothing.

    A file from elsewhere may hold any numbers, so they are limited to what a recording can have.
    """
    try:
        table = np.array(json.loads(read_record(path, HEARD, LONGEST_NAMES)), dtype=np.float64)
        if table.shape != (rows, 3) or not np.isfinite(table).all():
            raise ValueError(f"{HEARD} is of {table.shape}")
    except Exception:  # as in `read_note`
        return [UNHEARD] * rows
    return [Heard(*one) for one in np.clip(table, 0, (LONGEST_SECONDS, HIGHEST_PITCH_HZ, 1)).tolist()]


def read_record(path: Path, name: str, longest: int) -> bytes:
    """Return the content of a record that `note` added to the file.

    Raises:
        Exception: nearly any, of a file that is damaged, or has no such record, or one of more than `longest` bytes.
    """
    with zipfile.ZipFile(path) as archive:
        (record,) = (entry for entry in archive.infolist() if f"/{entry.filename}".endswith(f"/{name}"))
        if record.file_size > longest:
            raise ValueError(f"{name} has {record.file_size} bytes")
        return archive.read(record)


def _printable(text: str) -> str:
    """Replace what cannot be printed, such as line ends and escape sequences of terminals."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def read_sidecar(z_scores: Path, rows: int) -> str | None:
    """Return the fingerprint of z-scores in a .npy file from the .json beside it; None if that does not fit."""
    try:
        content = z_scores.with_suffix(".json").read_bytes()
        return _statistics_in(content) if json.loads(content)["rows"] == rows else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def sidecar_names(z_scores: Path, rows: int) -> list[str]:
    """Return the names of the recordings of z-scores from the table beside them; none if that does not fit."""
    table = z_scores.with_suffix(".csv")
    try:
        if json.loads(z_scores.with_suffix(".json").read_bytes())[RECORDINGS] != sha256_of(table):
            return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return [recording_name(Path(path)) for path in file_names(table, rows)]


def sidecar_heard(z_scores: Path, rows: int) -> list[Heard]:
    """Return what z-scores do not hold of their recordings, from the table beside them; none if that does not fit."""
    return heard_in(z_scores.with_suffix(".csv"), rows) if sidecar_names(z_scores, rows) else []


def find_whitening(
    voices: np.ndarray, statistics: str | None, folders: Sequence[Path]
) -> tuple[Path, Whitening] | tuple[None, None]:
    """Find the whitening of the calibration that made z-scores [B, C, H, W].

    Args:
        voices: the z-scores.
        statistics: fingerprint of their calibration, as their file notes it; None if it does not. Then the calibration
            is chosen with which they look most like spectrograms (`Whitening.fits`, `Whitening.plausibility_error`).
        folders: calibrations to choose from.

    Returns:
        Its file and the whitening; None, None if it is not in `folders`.

    Raises:
        ValueError: a whitening is broken.
        OSError: a whitening cannot be read.
    """
    fitting = []
    for path in (folder / WHITENING_NAME for folder in folders):
        candidate = _read_once(path) if path.is_file() else None
        if candidate is None or voices[0].size != candidate.mean_db.size or not candidate.fits(voices).all():
            continue
        if statistics in (None, statistics_sha256(candidate.mean_db, candidate.std_db)):
            fitting.append((candidate.plausibility_error(voices), path, candidate))
    if not fitting:
        return None, None
    _, path, whitening = min(fitting, key=lambda one: one[0])
    return path, whitening


def _read_once(path: Path) -> Whitening:
    """Return the whitening in a file, which is read again once it was replaced: each image of a show needs the same."""
    status = path.stat()
    return _read(path, status.st_ino, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=2)  # one's own and the built-in one, 2 MB each
def _read(path: Path, *_: int) -> Whitening:
    return Whitening.load(path)


def load_whitening(path: Path, statistics: str) -> Whitening:
    """Load the whitening of a calibration whose mean and standard deviation have the fingerprint `statistics`.

    Raises:
        ValueError: it is broken, or belongs to another mean and standard deviation.
        OSError: it cannot be read.
    """
    whitening = _read_once(path)
    if statistics_sha256(whitening.mean_db, whitening.std_db) != statistics:
        raise ValueError(
            f"{path} was made with another mean.npy or std.npy than those beside it; "
            "run z_transformation_with_stats.py again"
        )
    return whitening


def _statistics_in(content: bytes) -> str | None:
    statistics = json.loads(content)[STATISTICS]
    return statistics if isinstance(statistics, str) else None
