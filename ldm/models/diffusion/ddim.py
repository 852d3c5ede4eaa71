"""DDIM: Song, Meng & Ermon 2021, "Denoising Diffusion Implicit Models", arXiv 2010.02502."""

import math
from collections.abc import Iterator

from torch import Tensor

from ldm.models.diffusion.sampling import Denoise, Sampler, States, leading_timesteps


def ddim_step(
    pred_x0: Tensor, eps: Tensor, a_prev: float, variance: float = 0.0, noise: Tensor | float = 0.0
) -> Tensor:
    """Compute x_{t−1} [B, C, H, W] by equation 12 of the paper, with σ² = `variance`.

    x_{t−1} = √a_prev x0 + √(1 − a_prev − σ²) eps + σ noise
    """
    return math.sqrt(a_prev) * pred_x0 + math.sqrt(1 - a_prev - variance) * eps + math.sqrt(variance) * noise


class DDIMSampler(Sampler):
    """One model evaluation a step. eta = 0: Euler's method for the probability-flow ODE; eta = 1: DDPM's noise.

    σ² = eta² (1 − a_prev) / (1 − a) (1 − a / a_prev), equation 16. As with CompVis, timesteps are the leading ones and
    the last step ends at alphas_cumprod[0], so that x_0 keeps 0.0009 of the noise's variance.
    """

    stochastic = True
    timesteps = staticmethod(leading_timesteps)

    def _loop(self, x: Tensor, denoise: Denoise, timesteps: list[int], eta: float, noise: Iterator[Tensor]) -> States:
        for t, t_prev in zip(timesteps, [*timesteps[1:], 0], strict=True):  # the last step leads to timestep 0
            a, a_prev = self.alphas[t], self.alphas[t_prev]
            eps, pred_x0 = denoise(x, t)
            variance = eta**2 * (1 - a_prev) / (1 - a) * (1 - a / a_prev)
            x = ddim_step(pred_x0, eps, a_prev, variance, next(noise).to(x.device) if eta else 0.0)
            yield x, pred_x0
