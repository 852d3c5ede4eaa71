"""Read the tensors of .safetensors and .ckpt files, recognised by content, and write .safetensors.

A .ckpt is a pickle, and loading a pickle can run code. The restricted unpickler here only builds tensors. Other classes
become inert placeholders, and a file that refers to functions that run code is rejected.
"""

import json
import math
import pickle
import struct
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from files import OtherZip, open_torch_zip
from ldm.families import OtherFileError, gguf_kind, refuse_foreign

SAFETENSORS, ZIP_PICKLE, OLD_PICKLE = "safetensors", "pickle in a zip", "pickle before torch 1.6"

# safetensors' names of element types
_SAFE_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
# the first bytes of archives that are no format of weights
_PACKERS = {b"\x1f\x8b": "gzip", b"7z\xbc\xaf": "7-Zip", b"Rar!": "RAR", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


@dataclass(frozen=True)
class TensorFile:
    """The content of a file.

    Attributes:
        format: `SAFETENSORS`, `ZIP_PICKLE` or `OLD_PICKLE`.
        tensors: tensors by name, on the CPU. Where the format allows they are mapped, and need no memory until they are
            read. The caller may remove entries, to free those that are not mapped.
        foreign: names of classes and functions in a pickle that were not needed and not run.
    """

    format: str
    tensors: dict[str, Tensor]
    foreign: tuple[str, ...] = ()


def sniff(path: Path) -> str:
    """Recognise the format of the file `path` by its first bytes.

    Raises:
        ValueError: it is not a format of weights.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"PK\x03\x04"):
        return ZIP_PICKLE
    if len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < path.stat().st_size:
        return SAFETENSORS
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return OLD_PICKLE
    if not head:
        raise ValueError(f"{path} is empty: did a download fail?")
    if head.startswith(b"GGUF"):
        raise OtherFileError(
            f"{path} is a GGUF file: quantised weights{gguf_kind(path)} for other programs, which this one does not "
            "read; download the .safetensors or .ckpt"
        )
    if packer := next((name for magic, name in _PACKERS.items() if head.startswith(magic)), None):
        raise OtherFileError(f"{path} is packed with {packer}: unpack it, and name what is in it")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a git-lfs pointer, not the weights: run git lfs pull, or download the file itself")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise ValueError(f"{path} is a web page, not weights: download it from another link")
    raise ValueError(f"{path} is neither .safetensors nor a torch .ckpt (it starts with {head[:8]!r})")


def read_tensors(path: Path) -> TensorFile:
    """Read all tensors of the file `path`; those under `state_dict` if it is a training checkpoint.

    Raises:
        ValueError: the format is unknown, the file is damaged, the pickle would run code, or holds no tensors.
        OSError: the file cannot be read.
    """
    kind = sniff(path)
    if kind == SAFETENSORS:
        try:
            with safe_open(path, framework="pt") as file:
                return TensorFile(kind, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or cut short: {error}") from error
    content, foreign = _unpickle(path, kind)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict: was a whole module saved?")
    tensors = {name: value.detach() for name, value in dict.items(content) if isinstance(value, Tensor)}
    if not tensors:
        refuse_foreign(path, {str(name): value for name, value in content.items()})
        raise ValueError(f"{path} holds no named tensors (its entries: {some(list(map(str, content)))})")
    return TensorFile(kind, tensors, foreign)


def some(names: Sequence[str], count: int = 5) -> str:
    """Join the first few of `names` for a message."""
    return ", ".join(names[:count]) + (", …" if len(names) > count else "") if names else "none"


# --- pickles ---------------------------------------------------------------------------------------------------------


class UnsafePickleError(ValueError):
    """A pickle refers to something that runs code."""


class _Inert:
    """Placeholder for an object of an unwanted class: accepts any argument, state and item, and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def _ignore(self, *args: Any, **kwargs: Any) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = add = _ignore

    def __call__(self, *args: Any, **kwargs: Any) -> "_Inert":
        return self


# A pickle that names one of these tries to run code; they are no leftovers of training, and the user should know.
_CODE_MODULES = frozenset(
    {
        "os", "posix", "nt", "sys", "subprocess", "_posixsubprocess", "commands", "shutil", "socket", "importlib",
        "imp", "runpy", "pty", "ctypes", "code", "codeop", "webbrowser", "pickle", "_pickle", "multiprocessing",
        "pdb", "bdb", "timeit", "profile", "cProfile", "pydoc", "platform", "signal", "marshal", "http", "urllib",
        "ftplib", "smtplib", "asyncio", "zipimport", "site", "venv", "ensurepip", "pip", "setuptools",
    }
)  # fmt: skip
_CODE_NAMES = frozenset({"io.open", "_io.open", "torch.load", "torch.hub.load", "torch.jit.load", "numpy.load"})
_DATA_BUILTINS = {cls.__name__: cls for cls in (set, frozenset, dict, list, tuple, int, float, complex, bool, str)}


_INERT_BUILTINS = {"type", "object", "slice", "range", "bytes", "bytearray", "Ellipsis", "NotImplemented"}
_TORCH_DATA = {"Size", "device", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))}


def _find(module: str, name: str, foreign: list[str]) -> Any:
    """Resolve the name `module.name` in a pickle: data types, torch's tensor builders, else an inert class."""
    if module in ("builtins", "__builtin__"):
        if name in _DATA_BUILTINS:
            return _DATA_BUILTINS[name]
        if name not in _INERT_BUILTINS and not name.endswith(("Error", "Exception", "Warning")):
            raise UnsafePickleError(f"{module}.{name}")
    if module.partition(".")[0] in _CODE_MODULES or f"{module}.{name}" in _CODE_NAMES:
        raise UnsafePickleError(f"{module}.{name}")
    if (module, name) == ("collections", "OrderedDict"):
        return OrderedDict
    if module == "torch" and name in _TORCH_DATA:
        return getattr(torch, name)
    # fresh functions of our own, because a pickle may set attributes on the ones that it gets
    if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        return lambda storage, offset, size, stride, *_: torch._utils._rebuild_tensor(storage, offset, size, stride)
    if module == "torch._utils" and name == "_rebuild_parameter":
        return lambda data, *_: data
    foreign.append(f"{module}.{name}")
    return type(name.rpartition(".")[2], (_Inert,), {})


def _restricted_pickle(foreign: list[str]) -> ModuleType:
    """Make a replacement of the module `pickle` for `torch.load`, which adds the names it replaced to `foreign`."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return _find(module, name, foreign)

    def load(file: IO[bytes], **kwargs: Any) -> Any:
        return Unpickler(file, **kwargs).load()

    module = ModuleType("restricted_pickle")
    vars(module).update(Unpickler=Unpickler, load=load)
    return module


def _unpickle(path: Path, kind: str) -> tuple[Any, tuple[str, ...]]:
    """Read the content of a pickle and the foreign names in it, without running anything.

    torch's own restricted reader is tried first. It stops at any object that it does not know, such as the callbacks in
    a Lightning checkpoint; ours then skips those objects.
    """

    def load(**reader: Any) -> Any:
        source, mapped = open_torch_zip(path) if kind == ZIP_PICKLE else (path, False)
        if source == path and path.suffix == ".safetensors":  # by that name torch.load would choose the format
            with path.open("rb") as file:
                return torch.load(file, map_location="cpu", **reader)
        return torch.load(source, map_location="cpu", mmap=mapped, **reader)

    foreign: list[str] = []
    try:
        try:
            return load(weights_only=True), ()
        except pickle.UnpicklingError:
            content = load(weights_only=False, pickle_module=_restricted_pickle(foreign))
            return content, tuple(dict.fromkeys(foreign))
    except UnsafePickleError as error:
        raise ValueError(
            f"{path} is refused: it tries to run code when it is loaded ({error}). Nothing was run; "
            "get these weights from a source you trust, best as .safetensors"
        ) from None
    except OtherZip as error:
        raise OtherFileError(str(error)) from None
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a broken pickle can raise anything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(f"{path} cannot be read as a checkpoint: it is damaged or cut short ({reason})") from error


# --- writing ---------------------------------------------------------------------------------------------------------


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]) -> None:
    """Write `tensors` to `path`, each with the element type in `dtypes`, one at a time to save memory.

    The writer of the safetensors package holds a copy of all of them as bytes: 6 GB more for the 1.45 B model.

    Raises:
        ValueError: an element type is not supported, or an element is NaN or infinite, or becomes so.
        OSError: the file cannot be written.
    """
    for name, dtype in dtypes.items():
        if dtype not in _SAFE_DTYPES:
            raise ValueError(f"{name} has elements of {dtype}, which cannot be written: choose another element type")
    # wide elements first, so that all are aligned
    names = sorted(tensors, key=lambda name: (-dtypes[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].numel() * dtypes[name].itemsize
        header[name] = {
            "dtype": _SAFE_DTYPES[dtypes[name]], "shape": list(tensors[name].shape), "data_offsets": [start, end],
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            data = tensors[name].detach().to("cpu", dtypes[name]).contiguous()
            if not _is_finite(data):
                where = f", which {dtypes[name]} cannot hold" if _is_finite(tensors[name]) else ""
                raise ValueError(f"{name} holds NaN, infinite or very large numbers{where}: {path} is not written")
            file.write(data.reshape(-1).view(torch.uint8).numpy().data)


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(map(math.isfinite, extremes(tensor)))


def extremes(tensor: Tensor) -> tuple[float, float]:
    """Return the smallest and the largest element, in one pass; both are NaN if any element is."""
    wide = tensor.float() if tensor.element_size() == 1 else tensor  # torch compares no float8
    low, high = wide.aminmax()
    return low.item(), high.item()
