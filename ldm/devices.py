"""Devices and precisions to compute with.

torch is imported inside the functions, so that a command line can read `PRECISIONS` without waiting for it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PRECISIONS = ("fp32", "bf16", "fp16")


class UnavailableError(ValueError):
    """This machine, or this build of torch, lacks the requested device."""


def choose_device(name: str) -> "torch.device":
    """Return the device `name`: "cuda", "mps", "cpu", or for "auto" the first of these that works.

    Raises:
        UnavailableError: this machine, or this build of torch, has no such device.
        ValueError: an unknown name.
    """
    import torch

    works = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    usable = [kind for kind, available in works.items() if available]
    if name == "auto":
        return torch.device(usable[0])
    if name not in works:
        raise ValueError(f"unknown device {name!r}: choose auto, {', '.join(works)}")
    if name not in usable:
        raise UnavailableError(f"device {name} is not available: torch on this machine can use {', '.join(usable)}")
    return torch.device(name)


def choose_precision(name: str, device: "torch.device") -> str:
    """Return the precision `name`, or for "auto" bf16 where `device` computes in it natively.

    Where it does not, "auto" is fp16 on CUDA and fp32 elsewhere.

    Raises:
        ValueError: an unknown name.
    """
    import torch

    if name != "auto":
        if name not in PRECISIONS:
            raise ValueError(f"unknown precision {name!r}: choose auto, {', '.join(PRECISIONS)}")
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"
