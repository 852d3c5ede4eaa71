"""Safe file access: what `audio.files` and `audio.torch_zip` have, and names in a folder that no other program takes.

`audio/` imports no other room, so that another program can load it by itself; that is why the functions that it needs
are defined there.
"""

import copy
import functools
import io
import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from audio.files import atomic_path, lock, read_tensor, sha256_of
from audio.torch_zip import OtherZip, open_torch_zip

__all__ = [
    "OtherZip", "alternatives", "atomic_path", "check_writable", "lock", "open_torch_zip", "read_tensor", "read_yaml",
    "reserve", "reserved", "sha256_of",
]  # fmt: skip


def read_yaml(path: Path) -> Any:
    """Read what a yaml holds: dicts, lists, strings and numbers, in which the environment decides nothing.

    Raises:
        OSError: it cannot be read.
        Exception: it is no yaml, or refers to something that is not there; as the parser, the decoder and OmegaConf
            raise it.
    """
    return copy.deepcopy(_parsed(path.read_text(encoding="utf-8")))


@functools.lru_cache(maxsize=8)
def _parsed(text: str) -> Any:
    """Parse a yaml. It is kept, because parsing takes as long as building a small model."""
    from omegaconf import OmegaConf

    OmegaConf.clear_resolver("oc.env")  # a yaml from outside must not read environment variables
    return OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=True)


def reserve(folder: Path, names: Iterator[str]) -> Path:
    """Make an empty file in `folder` (made if missing) under the first of endless `names` that is free.

    The file is created with O_EXCL, so two programs can never get the same name. Returns its path.

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
    """Yield the path that `reserve` returns, to be written; it is removed if the block ends early."""
    path = reserve(folder, names)
    try:
        yield path
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def alternatives(name: str) -> Iterator[str]:
    """Yield `name`, then the same with `_2`, `_3`, ... at the end of its stem, endlessly."""
    yield name
    for number in itertools.count(2):
        yield f"{Path(name).stem}_{number}{Path(name).suffix}"


def numbered(folder: Path, stem: str, suffix: str) -> Iterator[str]:
    """Yield `stem_0000`, `stem_0001`, ... with `suffix`, from the lowest number that is free in `folder`.

    What is taken is read from the folder once, and not tried name by name: it may hold many thousand images. Later
    calls go on after the last number, as long as its file is there.
    """
    series = str(folder.absolute()), stem, suffix

    def name(number: int) -> str:
        return f"{stem}_{number:04d}{suffix}"

    first = _next_number.get(series, 0)
    if first == 0 or not (folder / name(first - 1)).exists() or (folder / name(first)).exists():
        taken = set(os.listdir(folder)) if folder.is_dir() else set()
        first = next(number for number in itertools.count() if name(number) not in taken)
    for number in itertools.count(first):
        _next_number[series] = number + 1
        yield name(number)


_next_number: dict[tuple[str, str, str], int] = {}  # of each series of names, the one after that of the last file


def check_writable(folder: Path) -> Path:
    """Check, before long work, that files can be written to a folder; it may be made later.

    Returns the folder, or the nearest one above it that exists.

    Raises:
        OSError: they cannot be written; the error names `folder`.
    """
    nearest = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        error.filename = str(folder)
        raise
    return nearest
