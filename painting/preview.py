"""A small image of the state of sampling, made from the latents by a linear map: the decoder does not run."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor

from painting.images import grid, save_png

EXAMPLES = 8  # images that the map is fitted to
EXAMPLE_SIZE = 128  # pixels
ENLARGED = 4  # pixels of the preview a latent pixel and side
COMPRESSION = 1  # zlib's level: a third of the time of the usual 6, for a file that is a quarter larger


def colour_fields(count: int, size: int, seed: int = 0) -> Tensor:
    """Draw seeded images [count, 3, size, size] in −1…1 of smooth colours, coarse and fine.

    Each is a sum of Gaussian noise of 2×2 to (size / 8)² cells, enlarged to `size`, every finer one half as strong.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, 3, size, size)
    cells, strength = 2, 1.0
    while cells <= size // 8:
        noise = torch.randn(count, 3, cells, cells, generator=generator)
        total += strength * F.interpolate(noise, size=(size, size), mode="bicubic")
        cells, strength = 2 * cells, strength / 2
    return total.clamp(-1.0, 1.0)


class LinearDecoder:
    """An affine map from one latent pixel to the mean colour that the first stage decodes it to."""

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights  # [C + 1, 3]; the last row is the constant

    @classmethod
    @torch.inference_mode()
    def fit(cls, encode: Callable[[Tensor], Tensor]) -> "LinearDecoder":
        """Fit the map by least squares to images of known colours, so that it suits the first stage of any model.

        Args:
            encode: the first stage, from images [1, 3, H, W] in −1…1 to latents [1, C, h, w].

        Raises:
            ValueError: the encoder gives NaN.
        """
        images = colour_fields(EXAMPLES, EXAMPLE_SIZE)
        # one image at a time: the memory of the encoder grows with the batch
        latents = torch.cat([encode(x).float().cpu() for x in images.split(1)])
        if not latents.isfinite().all():
            raise ValueError("the encoder of this model gives NaN, so there can be no preview: its weights are broken")
        colours = F.adaptive_avg_pool2d(images, (latents.shape[2], latents.shape[3]))
        return cls(torch.linalg.lstsq(_with_one(latents), rearrange(colours, "b c h w -> (b h w) c")).solution)

    def __call__(self, latents: Tensor) -> Tensor:
        """Map latents [B, C, h, w] to rough images [B, 3, h, w] in −1…1."""
        colours = _with_one(latents.float().cpu()) @ self.weights
        b, _, h, w = latents.shape
        return rearrange(colours, "(b h w) c -> b c h w", b=b, h=h, w=w).clamp(-1.0, 1.0)


def _with_one(latents: Tensor) -> Tensor:
    """Flatten latents [B, C, h, w] to rows [B·h·w, C + 1] whose last element is 1."""
    rows = rearrange(latents, "b c h w -> (b h w) c")
    return F.pad(rows, (0, 1), value=1.0)


def save_preview(images: np.ndarray, path: Path) -> None:
    """Write rough images [B, h, w, 3] uint8, enlarged and side by side, over the file `path`.

    The file is whole at any time.

    Raises:
        OSError: the file cannot be written.
    """
    tile = grid(images, math.ceil(math.sqrt(len(images))))
    height, width, _ = tile.shape
    enlarged = Image.fromarray(tile).resize((ENLARGED * width, ENLARGED * height), Image.Resampling.BICUBIC)
    save_png(np.asarray(enlarged), path, compression=COMPRESSION)
