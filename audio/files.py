"""Safe file access: atomic writes, locks, content hashes, and tensor loading that never runs code from the file."""

import hashlib
import os
import secrets
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .torch_zip import OtherZip, open_torch_zip

if TYPE_CHECKING:
    from torch import Tensor

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

STEM = 50  # characters, of four bytes at most


def lock(descriptor: int) -> bool:
    """Lock an open file until its descriptor is closed or the process ends; return False if another process holds it.

    Raises:
        OSError: the file system has no locks, or does not allow this one; the error has a number and no file.
    """
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if isinstance(error, BlockingIOError) or (sys.platform == "win32" and isinstance(error, PermissionError)):
            return False
        raise
    return True


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path` (made if missing); it becomes `path` if the block succeeds.

    The temporary name keeps the suffix of `path`, because many writers choose the format by it, and only the beginning
    of its stem, because a name can be no longer than 255 bytes. If the block ends
    early, by an exception or Ctrl-C, the temporary file is removed and an older `path` stays as it was.

    Raises:
        OSError: the folder cannot be made or written to; the error names `path`, not the temporary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem[:STEM]}.{os.getpid()}-{secrets.token_hex(3)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (temporary, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def read_tensor(path: Path, wanted: str) -> "Tensor":
    """Read a finite floating-point tensor, float32, from a .pt file; nothing in the file is executed.

    A file that was unpacked and zipped again is read, too.

    Args:
        path: the file.
        wanted: what is needed, for the message of an error.

    Raises:
        ValueError: the file holds something else, or NaN or infinite elements.
        OSError: it cannot be read.
    """
    import torch

    try:
        with warnings.catch_warnings():  # torch warns of pickles that it refuses
            warnings.simplefilter("ignore")
            source = open_torch_zip(path)[0] if zipfile.is_zipfile(path) else path
            tensor = torch.load(source, map_location="cpu", weights_only=True)
    except OtherZip as error:
        raise ValueError(f"{error}: {wanted}") from error
    except OSError:
        raise
    except Exception as error:  # torch raises half a dozen kinds for other files
        raise ValueError(f"{path} is not a latents file: {wanted}") from error
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
        kind = f"a tensor of {tensor.dtype}" if isinstance(tensor, torch.Tensor) else f"a {type(tensor).__name__}"
        raise ValueError(f"{path} holds {kind}: {wanted}")
    if tensor.layout is not torch.strided or tensor.is_meta:
        raise ValueError(f"{path} holds a sparse tensor, or one without numbers: {wanted}")
    if not tensor.isfinite().all():
        raise ValueError(f"{path} holds NaN or infinite elements: make it again")
    return tensor.detach().float()


def sha256_of(path: Path) -> str:
    """Compute the hexadecimal sha256 of a file's content; of a folder, that of all its files that are not hidden.

    Raises:
        OSError: a file cannot be read.
    """
    parts = [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        parts = [p for p in files if not any(name.startswith(".") for name in p.relative_to(path).parts)]
    digest = hashlib.sha256()
    for part in parts:
        with part.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
