"""Which calibration made latents: noted in their file, read from it, and found out by other means where it is not.

A z-score can be turned back into dB, and so into noise, only by the mean and the std that it was made with. The note
is one more record in the zip archive that torch.save writes: torch.load returns the tensor and leaves it unread, and it
goes wherever the file is copied. A file that was saved again has lost it; then the statistics here are tried on it.
"""

import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .files import atomic_path, read_tensor
from .whitening import WHITENING_NAME, Whitening

if TYPE_CHECKING:
    from torch import Tensor

RECORD = "voicetoimg.json"
LONGEST_RECORD = 4096  # bytes
STATISTICS = "statistics_sha256"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same latents, the same bytes


def statistics_sha256(mean_db: np.ndarray, std_db: np.ndarray) -> str:
    """The fingerprint of a calibration, as far as z-scores depend on it: of mean and std as little-endian float32."""
    return hashlib.sha256(mean_db.astype("<f4").tobytes() + std_db.astype("<f4").tobytes()).hexdigest()


def save_latents(path: Path, latents: "Tensor", statistics: str | None) -> None:
    """Write latents [N, C, H, W] to the .pt file `path`, whole or not at all, with a `note` of what made them.

    Raises:
        OSError: the file cannot be written.
    """
    import torch  # what only reads latents' notes starts faster without

    with atomic_path(path) as temporary:
        try:
            with temporary.open("wb") as file:
                torch.save(latents, file)
        except RuntimeError as error:  # torch's words do not say why
            raise OSError(f"{path} cannot be written, is the disk full? ({error})") from error
        note(temporary, statistics)


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


def note(path: Path, statistics: str | None) -> None:
    """Add to the .pt file `path`, as torch.save has just written it, what made its latents. None: nothing is known."""
    if statistics is None:
        return
    with zipfile.ZipFile(path, "a") as archive:
        folder = archive.namelist()[0].partition("/")[0]  # all records of torch lie in one
        archive.writestr(zipfile.ZipInfo(f"{folder}/{RECORD}", EPOCH), json.dumps({STATISTICS: statistics}))


def read_note(path: Path) -> str | None:
    """What `note` added to the file `path`; None if there is no note, or none that can be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            (record,) = (entry for entry in archive.infolist() if entry.filename.endswith(f"/{RECORD}"))
            if record.file_size > LONGEST_RECORD:
                return None
            return _statistics_in(archive.read(record))
    except Exception:  # no zip archive, no such record, or damage, for which zipfile raises nearly anything
        return None


def read_sidecar(z_scores: Path, rows: int) -> str | None:
    """What made the `rows` z-scores in a .npy file, by the .json file beside it; None if that does not tell of them."""
    try:
        content = z_scores.with_suffix(".json").read_bytes()
        return _statistics_in(content) if json.loads(content)["rows"] == rows else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def find_whitening(
    voices: np.ndarray, statistics: str | None, folders: Sequence[Path]
) -> tuple[Path, Whitening] | tuple[None, None]:
    """The whitening, of those in `folders`, of the calibration that made z-scores [B, C, H, W], and its file.

    Where the note in their file does not say which that was, it is the one by whose statistics they look most like
    spectrograms (`Whitening.fits`, `Whitening.misfit`). None, None: it is not here.

    Raises:
        ValueError: a whitening is broken.
        OSError: a whitening cannot be read.
    """
    fitting = []
    for path in (folder / WHITENING_NAME for folder in folders):
        candidate = Whitening.load(path) if path.is_file() else None
        if candidate is None or voices[0].size != candidate.mean_db.size or not candidate.fits(voices).all():
            continue
        if statistics in (None, statistics_sha256(candidate.mean_db, candidate.std_db)):
            fitting.append((candidate.misfit(voices), path, candidate))
    if not fitting:
        return None, None
    _, path, whitening = min(fitting, key=lambda one: one[0])
    return path, whitening


def _statistics_in(content: bytes) -> str | None:
    statistics = json.loads(content)[STATISTICS]
    return statistics if isinstance(statistics, str) else None
