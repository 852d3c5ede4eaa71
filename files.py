"""Files whole or not at all: written under a temporary name, then renamed; told apart by content; never obeyed."""

import hashlib
import itertools
import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path` (made if missing); it becomes `path` if the block succeeds.

    The temporary name keeps the suffix of `path`, because many writers choose the format by it. Whatever ends the
    block early, an exception or Ctrl-C, removes the temporary file and leaves an older `path` as it was.

    Raises:
        OSError: the folder cannot be made or written to; the error names `path`, not the temporary one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(3)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (temporary, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def reserve(folder: Path, names: Iterator[str]) -> Path:
    """Make an empty file in `folder` (made if missing) under the first of endless `names` that is free; its path.

    The name is taken by a hard step, so that two programs in one folder never get the same.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        path = folder / next(names)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            continue
        return path


@contextmanager
def reserved(folder: Path, names: Iterator[str]) -> Iterator[Path]:
    """Yield what `reserve` gives, to be written; whatever ends the block early removes it."""
    path = reserve(folder, names)
    try:
        yield path
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def alternatives(name: str) -> Iterator[str]:
    """`name`, then the same with `_2`, `_3`, ... at the end of its stem, without end."""
    yield name
    for number in itertools.count(2):
        yield f"{Path(name).stem}_{number}{Path(name).suffix}"


def read_tensor(path: Path, wanted: str) -> "Tensor":
    """A finite floating-point tensor, float32, from a .pt file; nothing in the file is executed.

    Args:
        wanted: what is needed, for the message of an error.

    Raises:
        ValueError: the file holds something else, or NaN or infinite elements.
        OSError: it cannot be read.
    """
    import torch

    try:
        with warnings.catch_warnings():  # torch's, of a pickle that it refuses
            warnings.simplefilter("ignore")
            tensor = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises half a dozen kinds for what is not a tensor file
        raise ValueError(f"{path} is no latents file: {wanted}") from error
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
        kind = f"a tensor of {tensor.dtype}" if isinstance(tensor, torch.Tensor) else f"a {type(tensor).__name__}"
        raise ValueError(f"{path} holds {kind}: {wanted}")
    if tensor.layout is not torch.strided or tensor.is_meta:
        raise ValueError(f"{path} holds a sparse tensor, or one without numbers: {wanted}")
    if not tensor.isfinite().all():
        raise ValueError(f"{path} holds NaN or infinite elements: make it again")
    return tensor.detach().float()


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file's content; of all files in order that are not hidden, if it is a folder.

    Raises:
        OSError: something cannot be read.
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
