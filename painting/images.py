"""Write images, grids and animations."""

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

from files import atomic_path, numbered, reserved

FRAME_MS = 83  # of an animation: twelve frames a second
WEBP_QUALITY = 90
PAGE = 8192 * 8192  # pixels of an overview, at most: 270 MB while it is made; Pillow warns of images from 89 million up


def to_uint8(x: Tensor) -> np.ndarray:
    """Convert images [B, 3, H, W] in −1…1 to [B, H, W, 3] uint8; values outside the range are clipped."""
    levels = ((x.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round()
    return rearrange(levels.to(torch.uint8), "b c h w -> b h w c").cpu().numpy()


def save_png(image: np.ndarray, path: Path, text: PngInfo | None = None, compression: int = -1) -> None:
    """Write an image [H, W, 3] uint8 atomically; `compression` is zlib's level, -1 for its default."""
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, pnginfo=text, compress_level=compression)


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
    with reserved(folder, numbered(folder, stem, suffix)) as path:
        write(path)
    return path


def save_grids(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Arrange the images in `paths`, all of one size, in squares; write them as `folder/grid_0000.png` and so on.

    There is more than one only if it would have more than PAGE pixels. Returns their paths.

    Raises:
        OSError: an image cannot be read, or an overview not be written.
    """
    with Image.open(paths[0]) as first:
        width, height = first.size
    pages = math.ceil(len(paths) * width * height / PAGE)
    count = math.ceil(len(paths) / pages)
    return [_save_page(paths[start : start + count], width, height, folder) for start in range(0, len(paths), count)]


def _save_page(paths: Sequence[Path], width: int, height: int, folder: Path) -> Path:
    """Write one overview of images of a size; only one of them is in memory at a time."""
    columns = math.ceil(math.sqrt(len(paths)))
    page = Image.new("RGB", (columns * width, math.ceil(len(paths) / columns) * height))
    for number, path in enumerate(paths):
        with Image.open(path) as image:
            page.paste(image.convert("RGB"), (number % columns * width, number // columns * height))

    def write(path: Path) -> None:
        with atomic_path(path) as temporary:
            page.save(temporary)

    return _write_numbered(folder, "grid", ".png", write)


def grid(images: Sequence[np.ndarray] | np.ndarray, columns: int) -> np.ndarray:
    """Arrange images of one size [H, W, 3] in rows of `columns`; empty places at the end are black."""
    blanks = [np.zeros_like(images[0])] * (-len(images) % columns)
    return rearrange(np.stack([*images, *blanks]), "(r c) h w d -> (r h) (c w) d", c=columns)
