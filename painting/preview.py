"""A small picture of where sampling stands, from the latents alone: no decoder is run."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ldm.models.diffusion.ddpm import LatentDiffusion
from painting.images import grid, save_png, to_uint8

EXAMPLES = 8  # pictures that the map is fitted to
EXAMPLE_SIZE = 128  # pixels
ENLARGED = 4  # pixels of the preview a latent pixel and side


def colour_fields(count: int, size: int, seed: int = 0) -> Tensor:
    """Seeded pictures [count, 3, size, size] in −1…1 of smooth colours, coarse and fine: what a first stage can encode.

    Gaussian noise at sizes from 2×2 to size / 8, each enlarged and half as strong as the one before it.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, 3, size, size)
    cells, strength = 2, 1.0
    while cells <= size // 8:
        noise = torch.randn(count, 3, cells, cells, generator=generator)
        total += strength * F.interpolate(noise, size=(size, size), mode="bicubic")
        cells, strength = 2 * cells, strength / 2
    return total.clamp(-1.0, 1.0)


@torch.inference_mode()
def fit_linear_decoder(model: LatentDiffusion) -> Tensor:
    """The affine map [C + 1, 3] from a latent pixel (and 1) to the mean colour that it is decoded to.

    By least squares from the first stage itself, so that it fits any model: its encoder gives the latents of pictures
    whose colours are known.
    """
    pictures = colour_fields(EXAMPLES, EXAMPLE_SIZE)
    first = next(model.first_stage_model.parameters())
    # one at a time, as the decoder does it: the encoder needs the more memory the larger the batch
    latents = torch.cat([model.encode_first_stage(x.to(first.device, first.dtype)) for x in pictures.split(1)])
    latents = latents.float().cpu()
    colours = F.adaptive_avg_pool2d(pictures, (latents.shape[2], latents.shape[3]))
    return torch.linalg.lstsq(_with_one(latents), rearrange(colours, "b c h w -> (b h w) c")).solution


def _with_one(latents: Tensor) -> Tensor:
    """Latents [B, C, h, w] as rows [B·h·w, C + 1], whose last element is 1."""
    rows = rearrange(latents, "b c h w -> (b h w) c")
    return F.pad(rows, (0, 1), value=1.0)


class Preview:
    """A picture file that is rewritten in place while sampling, whole each time."""

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every  # steps
        self._linear_decoder: Tensor | None = None

    def picture(self, model: LatentDiffusion, pred_x0: Tensor) -> Tensor:
        """About what `model` would decode [B, C, h, w] to: [B, 3, h, w], in −1…1."""
        if self._linear_decoder is None:
            self._linear_decoder = fit_linear_decoder(model)
        colours = _with_one(pred_x0.float().cpu()) @ self._linear_decoder
        b, _, h, w = pred_x0.shape
        return rearrange(colours, "(b h w) c -> b c h w", b=b, h=h, w=w).clamp(-1.0, 1.0)

    def show(self, model: LatentDiffusion, step: int, pred_x0: Tensor) -> None:
        """Write what step 0, 1, … thinks that the pictures become, side by side, if it is the turn of that step.

        Raises:
            OSError: the file cannot be written.
        """
        if (step + 1) % self.every:
            return
        small = self.picture(model, pred_x0)
        large = F.interpolate(small, scale_factor=ENLARGED, mode="bicubic")
        save_png(grid(to_uint8(large), math.ceil(math.sqrt(len(large)))), self.path)
