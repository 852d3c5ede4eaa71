"""From latents in a file to pictures in a folder: what lies on either side of the sampler."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from files import atomic_path, read_tensor, reserved

FRAME_MS = 83  # of an animation: twelve pictures a second
WEBP_QUALITY = 90


def read_latents(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """Latents [N, C, h, w] float32 from a .pt file; nothing in the file is executed.

    Raises:
        ValueError: not a tensor, empty, of another shape than [N, *shape], or with NaN or infinite elements.
        OSError: the file cannot be read.
    """
    wanted = f"a tensor [N, {', '.join(map(str, shape))}] is needed"
    if shape[1:] == (32, 32):
        wanted += ", as prep_ldm.py and process_live_audio.py write it"
    else:
        wanted += "; those of voices are [N, 4, 32, 32], for --H 256 --W 256"
    latents = read_tensor(path, wanted)
    if latents.ndim != 4 or tuple(latents.shape[1:]) != shape or not len(latents):
        raise ValueError(f"{path} holds a tensor {list(latents.shape)}: {wanted}")
    return latents


def to_uint8(x: Tensor) -> np.ndarray:
    """Pictures [B, 3, H, W] in −1…1 to [B, H, W, 3] uint8; what overshoots is clipped."""
    levels = ((x.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round()
    return rearrange(levels.to(torch.uint8), "b c h w -> b h w c").cpu().numpy()


def save_png(picture: np.ndarray, path: Path, text: PngInfo | None = None) -> None:
    """Write [H, W, 3] uint8, whole or not at all."""
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, pnginfo=text)


def save_numbered(picture: np.ndarray, folder: Path, stem: str, text: PngInfo | None = None) -> Path:
    """Write [H, W, 3] uint8 as `folder/stem_0000.png` or the first number after it that is free.

    Raises:
        OSError: the folder cannot be written to.
    """
    return _write_numbered(folder, stem, ".png", lambda path: save_png(picture, path, text))


def save_animation(paths: Sequence[Path], folder: Path, stem: str) -> Path:
    """Show the pictures in `paths`, of one size, one after the other for ever, in `folder/stem_0000.webp` or later.

    WebP has all colours and every browser shows it; a GIF would have 256.
    """
    frames = [Image.open(path).convert("RGB") for path in paths]
    how: dict[str, Any] = {
        "save_all": True,
        "append_images": frames[1:],
        "duration": FRAME_MS,
        "loop": 0,
        "quality": WEBP_QUALITY,
    }

    def write(path: Path) -> None:
        with atomic_path(path) as temporary:
            frames[0].save(temporary, **how)

    return _write_numbered(folder, stem, ".webp", write)


def _write_numbered(folder: Path, stem: str, suffix: str, write: Callable[[Path], None]) -> Path:
    """Let `write` fill the first free of `folder/stem_0000`, `stem_0001`, ..., and return its path."""
    with reserved(folder, (f"{stem}_{number:04d}{suffix}" for number in itertools.count())) as path:
        write(path)
    return path


def save_grid(paths: Sequence[Path], folder: Path) -> Path:
    """Lay the pictures in `paths` out in a square, and write that as `folder/grid_0000.png`, or a later number."""
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    return save_numbered(grid(pictures, math.ceil(math.sqrt(len(pictures)))), folder, "grid")


def grid(pictures: Sequence[np.ndarray] | np.ndarray, columns: int) -> np.ndarray:
    """Lay pictures of one size [H, W, 3] out in rows of `columns`; missing ones at the end are black."""
    blanks = [np.zeros_like(pictures[0])] * (-len(pictures) % columns)
    return rearrange(np.stack([*pictures, *blanks]), "(r c) h w d -> (r h) (c w) d", c=columns)
