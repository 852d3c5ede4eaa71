"""Write images, grids and animations."""

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

from files import atomic_path, reserved

FRAME_MS = 83  # of an animation: twelve frames a second
WEBP_QUALITY = 90


def to_uint8(x: Tensor) -> np.ndarray:
    """Convert images [B, 3, H, W] in −1…1 to [B, H, W, 3] uint8; values outside the range are clipped."""
    levels = ((x.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round()
    return rearrange(levels.to(torch.uint8), "b c h w -> b h w c").cpu().numpy()


def save_png(image: np.ndarray, path: Path, text: PngInfo | None = None) -> None:
    """Write an image [H, W, 3] uint8 atomically."""
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, pnginfo=text)


def save_numbered(image: np.ndarray, folder: Path, stem: str, text: PngInfo | None = None) -> Path:
    """Write an image [H, W, 3] uint8 as `folder/stem_0000.png`, or under the next number that is free.

    Raises:
        OSError: the folder cannot be written to.
    """
    return _write_numbered(folder, stem, ".png", lambda path: save_png(image, path, text))


def save_animation(paths: Sequence[Path], folder: Path, stem: str) -> Path:
    """Write the images in `paths`, all of one size, as an endless animation `folder/stem_0000.webp`, or a later number.

    WebP, because a GIF has only 256 colours; every browser shows it.
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
    """Let `write` fill the first free name of `folder/stem_0000`, `stem_0001`, ..., and return its path."""
    with reserved(folder, (f"{stem}_{number:04d}{suffix}" for number in itertools.count())) as path:
        write(path)
    return path


def save_grid(paths: Sequence[Path], folder: Path) -> Path:
    """Arrange the images in `paths` in a square, and write it as `folder/grid_0000.png`, or a later number."""
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    return save_numbered(grid(images, math.ceil(math.sqrt(len(images)))), folder, "grid")


def grid(images: Sequence[np.ndarray] | np.ndarray, columns: int) -> np.ndarray:
    """Arrange images of one size [H, W, 3] in rows of `columns`; empty places at the end are black."""
    blanks = [np.zeros_like(images[0])] * (-len(images) % columns)
    return rearrange(np.stack([*images, *blanks]), "(r c) h w d -> (r h) (c w) d", c=columns)
