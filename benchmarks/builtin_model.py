"""The built-in model as the benchmarks use it, and a coarse comparison of its images."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

import config
from ldm.models.diffusion.sampling import seeded_noise
from painting.ldm_painter import LatentDiffusionPainter
from painting.painter import spec_for

BATCH = 8
THUMBNAIL = 16  # pixels a side


class BuiltinModel:
    """The built-in model on the best device, at its best precision; `loading` is the time of loading in seconds."""

    def __init__(self) -> None:
        start = time.perf_counter()
        self.painter = LatentDiffusionPainter(config.BUILTIN_MODEL_WEIGHTS)
        self.loading = time.perf_counter() - start

    def paint(
        self,
        prompts: Sequence[str],
        x_T: torch.Tensor,
        batch: int = BATCH,
        progress: str | None = None,
        **settings: Any,
    ) -> np.ndarray:
        """Sample images [N, 256, 256, 3] uint8 of N prompts from `x_T` [N, 4, 32, 32].

        Args:
            batch: images at a time.
            progress: label of a progress bar, or None.
            settings: fields of `ImageSpec` that differ from the defaults.
        """
        images = []
        for first in tqdm(range(0, len(prompts), batch), progress, disable=None if progress else True):
            rows = slice(first, first + batch)
            specs = [spec_for(self.painter, prompt, **settings) for prompt in prompts[rows]]
            images.append(self.painter.paint(specs, x_T[rows]))
        return np.concatenate(images)

    def paint_from_noise(self, prompts: Sequence[str], first_seed: int = 0, **settings: Any) -> np.ndarray:
        """Sample images [N, 256, 256, 3] uint8 of N prompts from the noise of N seeds, from `first_seed` on."""
        seeds = list(range(first_seed, first_seed + len(prompts)))
        return self.paint(prompts, seeded_noise(seeds, config.LATENT_SHAPE), **settings)


def thumbnails(images: Iterable[np.ndarray]) -> np.ndarray:
    """Shrink images [H, W, 3] uint8 to [N, 16, 16, 3] float64 in 0…1."""
    small = [cv2.resize(image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA) for image in images]
    return np.stack(small) / 255
