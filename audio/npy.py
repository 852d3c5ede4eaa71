"""Matrices on disk: .npy files of floating point numbers [N, P], read and written a few rows at a time.

Memory does not grow with N, and a full disk raises OSError (a mapped file would crash the process).
"""

import io
from pathlib import Path

import numpy as np

BLOCK = 1024  # rows held at a time: 32 MB of vectors as float64


class NpyReader:
    """A .npy file [N, P], read slice by slice: `matrix[begin:end]` is an array. Every row read is finite."""

    def __init__(self, path: Path, width: int) -> None:
        """Open a file; raises ValueError and OSError as `load_array`."""
        self.path = path
        self._map = map_array(path, (None, width))
        self.shape, self.dtype = self._map.shape, self._map.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        begin, end, _ = rows.indices(len(self))
        if self._map.flags.c_contiguous:
            row = self.shape[1] * self.dtype.itemsize
            count = max(0, end - begin) * self.shape[1]
            block = np.fromfile(self.path, self.dtype, count, offset=self._map.offset + begin * row)
            block = block.reshape(-1, self.shape[1])
        else:
            block = np.array(self._map[begin:end])
        if not np.isfinite(block).all():
            raise ValueError(f"{self.path} holds NaN or infinity in rows {begin} to {end - 1}: make it again")
        return block


class ChosenRows:
    """Some rows of a matrix on disk, read slice by slice as from `NpyReader`."""

    def __init__(self, matrix: NpyReader, chosen: np.ndarray) -> None:
        """Choose rows [K], in ascending order."""
        self._matrix, self._chosen = matrix, chosen
        self.shape, self.dtype = (len(chosen), matrix.shape[1]), matrix.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        chosen = self._chosen[rows]
        runs = np.split(chosen, np.flatnonzero(np.diff(chosen) != 1) + 1)  # each of neighbours on disk
        return np.concatenate([self._matrix[int(run[0]) : int(run[-1]) + 1] for run in runs])


Rows = NpyReader | ChosenRows


class NpyWriter:
    """A float32 .npy that grows row by row on disk; the number of rows is known only at the end."""

    def __init__(self, path: Path, width: int) -> None:
        """Begin a file of rows of `width` elements."""
        self.width, self.rows = width, 0
        self._file = open(path, "wb")  # noqa: SIM115 (closed by __exit__)
        self._header()
        self._data_start = self._file.tell()

    def append(self, rows: np.ndarray) -> None:
        """Append one row [P], or several [B, P]."""
        assert rows.shape[-1] == self.width and rows.dtype == np.float32, (rows.shape, rows.dtype)
        self._file.write(np.ascontiguousarray(rows).data)
        self.rows += rows.size // self.width

    def _header(self) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self.width)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> "NpyWriter":
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._file.seek(0)
            self._header()  # NumPy pads headers for this: the rows may grow to 21 digits
            assert self._file.tell() == self._data_start


def save_array(path: Path, array: np.ndarray) -> None:
    """Save as `np.save` does, but let a full disk raise an OSError with its errno."""
    memory = io.BytesIO()
    np.save(memory, array, allow_pickle=False)
    path.write_bytes(memory.getbuffer())


def load_array(path: Path, shape: tuple[int | None, ...]) -> np.ndarray:
    """Map a .npy file into memory, read only, after checking that it is finite floating point of `shape`.

    None in `shape` allows any length. Every element is read once, block by block.

    Raises:
        ValueError: a broken file, an object array, another type or shape, no rows, or NaN or infinity.
        OSError: the file does not exist or cannot be read.
    """
    array = map_array(path, shape)
    for start in range(0, len(array), BLOCK):
        if not np.isfinite(array[start : start + BLOCK]).all():
            raise ValueError(
                f"{path} holds NaN or infinity in rows {start} to {min(start + BLOCK, len(array)) - 1}: make it again"
            )
    return array


def map_array(path: Path, shape: tuple[int | None, ...]) -> np.memmap:
    """Map a .npy file into memory as `load_array` does, without reading the elements."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, PermissionError, IsADirectoryError, MemoryError):
        raise
    except Exception as error:  # a damaged header makes NumPy raise nearly any error, even tokenize's
        raise ValueError(f"{path} is not a .npy file of numbers, or is damaged; make it again") from error
    allowed = "(" + ", ".join("N" if n is None else str(n) for n in shape) + ("," if len(shape) == 1 else "") + ")"
    found = getattr(array, "shape", None)
    if found is None:
        raise ValueError(f"{path} is a zip archive, as .npz and .pt files are, not a .npy file; make it again")
    if len(found) != len(shape) or any(n not in (None, m) for n, m in zip(shape, found, strict=True)):
        raise ValueError(f"{path} is of shape {found}; {allowed} is needed: make it again")
    if array.dtype.kind != "f":
        raise ValueError(f"{path} holds {array.dtype}; floating point numbers are needed: make it again")
    if not array.size:
        raise ValueError(f"{path} is empty: make it again")
    return array
