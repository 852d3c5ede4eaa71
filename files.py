"""Files whole or not at all: written under a temporary name, then renamed; told apart by their content."""

import hashlib
import itertools
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


def reserve(path: Path) -> Path:
    """Make an empty file under the first name of `path`, `stem_2`, `stem_3`, ... that is free, and return its path.

    The name is taken by a hard step, so that two programs in one folder never get the same.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        free = path.with_name(f"{path.stem}_{number}{path.suffix}") if number > 1 else path
        try:
            os.close(os.open(free, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            continue
        return free
    raise AssertionError


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
