"""The zip around tensors that torch saved: mend it where torch cannot read it, and write it without torch's memory.

torch stores the bytes of each tensor as a record, uncompressed and aligned, so that a file can be mapped into memory.
Anything that unpacks such a file and zips it again may compress the records, shift them, or rename their folder.
"""

import io
import struct
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import numpy as np

PICKLE = "data.pkl"  # the record with the structure; tensors are data/0, data/1, … beside it
ALIGNMENT = 8  # bytes; the widest element
DEFAULTS = {"version": b"3\n", "byteorder": b"little"}  # of records that torch needs and a zip may have lost
DATA = "archive/data/0"  # the record with the elements of a tensor that is alone in its file
SAVED_ALIGNMENT = 64  # bytes, to which torch aligns this record
EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed date, so that the same tensors give the same bytes
READABLE = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # compressions that torch knows
_LOCAL_HEADER = 30  # bytes before the name of a record; bytes 26 to 29 are the lengths of the name and of what follows


class OtherZip(ValueError):
    """A zip archive that holds no tensors of torch."""


def open_torch_zip(path: Path) -> tuple[Path | BinaryIO, bool]:
    """Return what `torch.load` can read of the archive `path`, and whether its records can be mapped.

    The first result is `path` itself, or a copy in memory if torch cannot read the layout of the archive.

    Raises:
        OtherZip: it holds no tensors of torch.
        zipfile.BadZipFile: it is damaged.
        OSError: it cannot be read.
    """
    with zipfile.ZipFile(path) as archive:
        records = [record for record in archive.infolist() if not record.is_dir()]
        prefixes = [r.filename.removesuffix(PICKLE) for r in records if f"/{r.filename}".endswith(f"/{PICKLE}")]
        if not prefixes:
            held = ", ".join(record.filename for record in records[:3])
            raise OtherZip(f"{path} is a zip archive of other files ({held}): unpack it, and name what is in it")
        prefix = min(prefixes, key=len)
        names = {record.filename for record in records}
        in_one_folder = prefix.count("/") == 1 and all(name.startswith(prefix) for name in names)
        kinds = {record.compress_type for record in records}
        if not (in_one_folder and f"{prefix}version" in names and kinds <= READABLE):
            return _repacked(archive, records, prefix), False
        if zipfile.ZIP_DEFLATED in kinds:
            return path, False
        with path.open("rb") as file:
            tensors = [record for record in records if record.filename.startswith(f"{prefix}data/")]
            return path, all(_start(file, record) % ALIGNMENT == 0 for record in tensors)


def write_tensor(file: BinaryIO, shape: tuple[int, ...], blocks: Iterable["np.ndarray"]) -> None:
    """Write a float32 tensor as `torch.save` does, block by block, so that memory does not grow with it.

    Args:
        file: the .pt file, open for writing.
        shape: of the tensor, [N, ...].
        blocks: arrays [n, ...] float32, which together are the tensor.

    Raises:
        OSError: the file cannot be written.
    """
    with (
        tempfile.TemporaryFile() as whole,
        zipfile.ZipFile(_structure(shape, whole)) as structure,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        for record in structure.infolist():
            if record.filename != DATA:
                archive.writestr(zipfile.ZipInfo(record.filename, EPOCH), structure.read(record))
        record = zipfile.ZipInfo(DATA, EPOCH)
        # a field that readers skip fills the space up to the next multiple; force_zip64 adds 20 bytes of its own
        begin = file.tell() + _LOCAL_HEADER + len(DATA) + 20
        record.extra = struct.pack("<HH", 0x4246, filled := -(begin + 4) % SAVED_ALIGNMENT) + b"Z" * filled
        with archive.open(record, "w", force_zip64=True) as target:
            for block in blocks:
                target.write(block.astype("<f4", "C", copy=False).data.cast("B"))


def _structure(shape: tuple[int, ...], file: BinaryIO) -> BinaryIO:
    """Let torch save a tensor without its elements to `file`, which has room for them that takes no space."""
    import torch

    with torch.serialization.skip_data():
        torch.save(torch.empty(shape), file)
    return file


def _start(file: BinaryIO, record: zipfile.ZipInfo) -> int:
    """Return the position in `file` where the content of `record` starts."""
    file.seek(record.header_offset + _LOCAL_HEADER - 4)
    return record.header_offset + _LOCAL_HEADER + sum(struct.unpack("<HH", file.read(4)))


def _repacked(archive: zipfile.ZipFile, records: list[zipfile.ZipInfo], prefix: str) -> BinaryIO:
    """Copy the records whose names begin with `prefix` into an archive in memory, in the layout that torch reads."""
    copy = io.BytesIO()
    content = {r.filename.removeprefix(prefix): r for r in records if r.filename.startswith(prefix)}
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as target:
        for name, default in DEFAULTS.items():
            if name not in content:
                target.writestr(f"archive/{name}", default)
        for name, record in content.items():
            target.writestr(f"archive/{name}", archive.read(record))
    copy.seek(0)
    return copy
