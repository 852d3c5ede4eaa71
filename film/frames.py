"""The frames of a film that is being made: stored without loss, batch by batch, so that the same command resumes it.

A batch is one file, which is complete or not there, and its line in the journal holds the hash of its content. A file
that a power cut damaged is found by it, and its batch painted again. Batches are always the same, because the number
of images that are sampled together changes how sums are rounded.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from files import atomic_path, lock, sha256_of

JOURNAL = "journal.jsonl"


class FrameStore:
    """The folder of frames [H, W, 3] uint8 of one film, which exists only while the film is unfinished."""

    def __init__(self, folder: Path, name: str, identity: str, count: int, batch_size: int) -> None:
        """Find out what is painted already.

        Args:
            folder: of the films.
            name: of the film.
            identity: names everything that the frames depend on; another one has another folder.
            count: frames of the film.
            batch_size: frames of a batch.

        Raises:
            OSError: the folder cannot be made, or another process makes this film.
        """
        key = hashlib.sha256(f"{identity} {count} {batch_size}".encode()).hexdigest()[:16]
        self.folder = folder / f".{name[:50]}-{key}"
        self.count, self.batch_size = count, batch_size
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock: int | None = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        if not lock(self._lock):
            self.close()
            raise OSError(f"another process makes this film: its frames are in {self.folder}")
        self.painted = self._read()

    def batch(self, number: int) -> range:
        """Return the frames of a batch."""
        return range(number * self.batch_size, min((number + 1) * self.batch_size, self.count))

    @property
    def batches(self) -> int:
        """Number of batches."""
        return -(-self.count // self.batch_size)

    @property
    def missing(self) -> list[int]:
        """List the batches that are not painted yet."""
        return [number for number in range(self.batches) if number not in self.painted]

    def add(self, number: int, frames: np.ndarray) -> None:
        """Store the frames [B, H, W, 3] of a batch, and wait until they are on disk.

        Raises:
            OSError: they cannot be written.
        """
        path = self._path(number)
        content = encoded(frames)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with (self.folder / JOURNAL).open("a", encoding="utf-8") as file:
            file.write(json.dumps([number, hashlib.sha256(content).hexdigest()]) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.painted.add(number)

    def frames(self) -> Iterator[np.ndarray]:
        """Yield all frames [H, W, 3] in order; all batches must be painted.

        Raises:
            OSError: a file cannot be read.
        """
        for number in range(self.batches):
            # Image.open refuses images of very many pixels, which a batch of large frames has
            with PngImageFile(self._path(number)) as image:
                yield from np.split(np.asarray(image), len(self.batch(number)))

    def size(self) -> int:
        """Return the bytes of the painted batches."""
        return sum(self._path(number).stat().st_size for number in self.painted)

    def close(self) -> None:
        """Let another process go on with the film."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def remove(self) -> None:
        """Remove the folder, because the film is made."""
        self.close()  # a system may refuse to remove an open file
        shutil.rmtree(self.folder)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.png"

    def _read(self) -> set[int]:
        """Read which batches are painted; a torn line, and a file that is not what its line says, are not."""
        journal, painted = self.folder / JOURNAL, set()
        if journal.is_file():
            content = journal.read_bytes()
            for line in content.splitlines():
                try:
                    number, digest = json.loads(line)
                    if number in range(self.batches) and sha256_of(self._path(number)) == digest:
                        painted.add(number)
                except (ValueError, TypeError, OSError):
                    continue
            if content and not content.endswith(b"\n"):
                with journal.open("ab") as file:
                    file.write(b"\n")  # so that the next line stands alone
        return painted


def encoded(frames: np.ndarray) -> bytes:
    """Encode frames [B, H, W, 3] uint8 as one PNG image, below each other."""
    content = io.BytesIO()
    Image.fromarray(np.concatenate(frames)).save(content, "PNG", compress_level=1)
    return content.getvalue()
