"""The nodes as ComfyUI loads them, and what it gives them."""

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor


def load_pack(folder: Path) -> ModuleType:
    """Load a folder of custom_nodes as ComfyUI does: by its path, which is also its name, without dots."""
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def audio_of(samples: Any, rate: int) -> dict[str, Any]:
    """Return samples [T] or [channels, T] as AUDIO."""
    waveform = torch.as_tensor(samples)
    return {"waveform": waveform.reshape(1, -1, waveform.shape[-1]), "sample_rate": rate}


class Lazy(Mapping[str, Any]):
    """AUDIO that is no dict, and that is decoded when it is read, as VideoHelperSuite gives it."""

    def __init__(self, audio: dict[str, Any]) -> None:
        self._audio = audio

    def __getitem__(self, key: str) -> Any:
        return self._audio[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._audio)

    def __len__(self) -> int:
        return len(self._audio)


class NestedTensor:
    """Latents of several parts, such as video and sound, with the attributes of ComfyUI's class of this name."""

    is_nested = True

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = list(tensors)

    @property
    def shape(self) -> torch.Size:
        return self.tensors[0].shape

    def unbind(self) -> list[Tensor]:
        return self.tensors
