"""Write without losing anything: a temporary name beside the target, then a rename."""

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
        OSError: the folder cannot be made or written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(3)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
