"""From start noise and a prompt to pictures: a loaded model, a sampler, the decoder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ldm.checkpoint import load_model
from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.diffusion.dpm_solver import DPMSolverSampler
from ldm.models.diffusion.plms import PLMSSampler
from ldm.models.diffusion.sampling import Sampler, SamplerOptions
from ldm.pictures import to_uint8

SAMPLERS: dict[str, type[Sampler]] = {"ddim": DDIMSampler, "plms": PLMSSampler, "dpmpp": DPMSolverSampler}


def best_device() -> torch.device:
    """CUDA, else Apple's Metal, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class Painter:
    """A latent diffusion model, ready to paint.

    It computes in float32, in which a picture is the same, bit for bit, each time on one machine, and to within
    rounding alone or in a batch.
    """

    def __init__(self, model: LatentDiffusion) -> None:
        self.model = model

    @classmethod
    def load(cls, weights: Path, config: Path | None = None) -> "Painter":
        """Load `weights` by the yaml `config`, by default the one beside them, onto the best device.

        Raises:
            ValueError: the weights are broken or of another model than the yaml describes.
            OSError: a file cannot be read.
        """
        return cls(load_model(weights, config, dtype=torch.float32, device=best_device()))

    @torch.inference_mode()
    def paint(
        self, prompt: str, x_T: Tensor, seeds: Sequence[int], sampler: str, options: SamplerOptions, desc: str
    ) -> np.ndarray:
        """Pictures [B, 8h, 8w, 3] uint8 of `prompt` from start noise `x_T` [B, C, h, w], with a progress bar.

        `seeds` [B] are those of the noise that DDIM adds with eta above 0.
        """
        samples, _ = SAMPLERS[sampler](self.model).sample(
            S=options.steps,
            batch_size=len(x_T),
            shape=tuple(x_T.shape[1:]),
            conditioning=self.model.get_learned_conditioning([prompt]),
            unconditional_conditioning=self.model.get_learned_conditioning([""]),
            unconditional_guidance_scale=options.scale,
            eta=options.eta,
            x_T=x_T,
            seeds=seeds,
            desc=desc,
        )
        # one at a time: at 256×256 the decoder needs more memory than the whole of the sampling
        return np.concatenate([to_uint8(self.model.decode_first_stage(z)) for z in samples.split(1)])
