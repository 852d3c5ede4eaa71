"""Read the tensors of .safetensors and .ckpt files, told apart by content, and write .safetensors.

A .ckpt is a pickle, and a pickle is a program: it is run here by an interpreter that can only put tensors together.
What else it names becomes an inert placeholder; what it names of Python's means to run code, it is refused for.
"""

import json
import pickle
import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

SAFETENSORS, ZIP_PICKLE, OLD_PICKLE = "safetensors", "pickle in a zip", "pickle before torch 1.6"

# safetensors' names of element types
_SAFE_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class TensorFile:
    """What a file holds.

    Attributes:
        format: `SAFETENSORS`, `ZIP_PICKLE` or `OLD_PICKLE`.
        tensors: tensors by name; on the CPU and mapped into memory wherever the format allows, so costing none until
            read. It may be emptied by the one who asked for it, to free what is not mapped.
        foreign: names of classes and functions in a pickle that were neither needed nor run.
    """

    format: str
    tensors: dict[str, Tensor]
    foreign: tuple[str, ...] = ()


def sniff(path: Path) -> str:
    """The format of the file `path`, from its first bytes.

    Raises:
        ValueError: none of those that hold weights.
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
        raise ValueError(f"{path} is empty; a download that failed?")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a git-lfs pointer, not the weights: run git lfs pull, or download the file itself")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise ValueError(f"{path} is a web page, not weights: the download needs another link")
    raise ValueError(f"{path} is neither .safetensors nor a torch .ckpt (it starts with {head[:8]!r})")


def read_tensors(path: Path) -> TensorFile:
    """All tensors of the file `path`; those under `state_dict` if it is a training checkpoint.

    Raises:
        ValueError: another format, a damaged file, a pickle that would run code, or one without tensors.
        OSError: the file cannot be read.
    """
    kind = sniff(path)
    if kind == SAFETENSORS:
        try:
            with safe_open(path, framework="pt") as file:
                return TensorFile(kind, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or cut short: {error}") from error
    content, foreign = _unpickle(path, mapped=kind == ZIP_PICKLE)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no state dict, only {type(content).__name__}: weights saved as a whole module?")
    tensors = {name: value.detach() for name, value in dict.items(content) if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name (its entries: {some(list(map(str, content)))})")
    return TensorFile(kind, tensors, foreign)


def some(names: list[str], count: int = 5) -> str:
    """The first few of `names`, for a message."""
    return ", ".join(names[:count]) + (", …" if len(names) > count else "") if names else "none"


# --- pickles ---------------------------------------------------------------------------------------------------------


class UnsafePickleError(ValueError):
    """A pickle asks for something that runs code."""


class _Inert:
    """Stands for an object of a class that is not wanted: takes any argument, state and item, and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def _ignore(self, *args: Any, **kwargs: Any) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = add = _ignore

    def __call__(self, *args: Any, **kwargs: Any) -> "_Inert":
        return self


# Naming any of these is an attempt to run code, not a leftover of training: the person should hear of it.
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
    """What a pickle gets when it names `module.name`: data types, torch's tensor builders, else an inert class."""
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
    # functions of our own, and fresh ones: a pickle may set attributes on what it is given
    if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        return lambda storage, offset, size, stride, *_: torch._utils._rebuild_tensor(storage, offset, size, stride)
    if module == "torch._utils" and name == "_rebuild_parameter":
        return lambda data, *_: data
    foreign.append(f"{module}.{name}")
    return type(name.rpartition(".")[2], (_Inert,), {})


def _restricted_pickle(foreign: list[str]) -> ModuleType:
    """Stands in for the module `pickle` in `torch.load`; notes in `foreign` what it replaced by placeholders."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return _find(module, name, foreign)

    def load(file: IO[bytes], **kwargs: Any) -> Any:
        return Unpickler(file, **kwargs).load()

    module = ModuleType("restricted_pickle")
    vars(module).update(Unpickler=Unpickler, load=load)
    return module


def _unpickle(path: Path, mapped: bool) -> tuple[Any, tuple[str, ...]]:
    """Content of a pickle, and the foreign names in it; nothing in it is run.

    torch's own restricted reader comes first. It stops at any object that it does not know, such as the callbacks in
    a Lightning checkpoint; then ours reads around them.
    """

    def load(**reader: Any) -> Any:
        if path.suffix == ".safetensors":  # given such a name, torch.load would not look at the content
            with path.open("rb") as file:
                return torch.load(file, map_location="cpu", **reader)
        return torch.load(path, map_location="cpu", mmap=mapped, **reader)

    foreign: list[str] = []
    try:
        try:
            return load(weights_only=True), ()
        except pickle.UnpicklingError:
            content = load(weights_only=False, pickle_module=_restricted_pickle(foreign))
            return content, tuple(dict.fromkeys(foreign))
    except UnsafePickleError as error:
        raise ValueError(
            f"{path} is refused: it tries to run code when it is loaded ({error}). Nothing of it was run; "
            "get these weights from a source you trust, best as .safetensors"
        ) from None
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever a broken pickle makes its reader do
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(f"{path} cannot be read as a checkpoint, it is damaged or cut short: {reason}") from error


# --- writing ---------------------------------------------------------------------------------------------------------


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]) -> None:
    """Write `tensors` to `path`, each as the element type in `dtypes`, one after the other in memory.

    safetensors' own writer holds all of them as bytes at once: twice 6 GB for the 1.45 B model.

    Raises:
        ValueError: an element type that is not written here.
        OSError: the file cannot be written.
    """
    for name, dtype in dtypes.items():
        if dtype not in _SAFE_DTYPES:
            raise ValueError(
                f"{name} has elements of {dtype}, which are not written here: choose another type for them"
            )
    names = sorted(tensors, key=lambda name: (-dtypes[name].itemsize, name))  # wide ones first keeps all aligned
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
            file.write(data.reshape(-1).view(torch.uint8).numpy().data)
