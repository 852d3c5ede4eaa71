"""PLMS: Liu, Ren, Lin & Zhao 2022, "Pseudo Numerical Methods for Diffusion Models on Manifolds", arXiv 2202.09778."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ldm.models.diffusion.ddim import ddim_step
from ldm.models.diffusion.sampling import Denoise, Sampler, States, leading_timesteps, pred_x0_from_eps

# Weights of the newest eps and those before it: Adams-Bashforth of order 1 to 4 (equation 9 is the last).
ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


class PLMSSampler(Sampler):
    """A linear multistep method in eps, put into DDIM's step (the paper's "transfer part", equation 11).

    eps' = (55 eps_t − 59 eps_{t+1} + 37 eps_{t+2} − 9 eps_{t+3}) / 24

    The first three steps have fewer eps. As with CompVis (diffusers: skip_prk_steps), the very first is an improved
    Euler step, eps' = (eps_t + eps_{t−1}) / 2, so there are steps + 1 model evaluations in all; the next two are of
    order 2 and 3. eps is combined for a v-model too, where diffusers combines the v of different timesteps.
    """

    timesteps = staticmethod(leading_timesteps)

    def _loop(self, x: Tensor, denoise: Denoise, timesteps: list[int], eta: float, noise: Iterator[Tensor]) -> States:
        history: list[Tensor] = []  # eps of this step and up to three before it, the newest first
        for t, t_prev in zip(timesteps, [*timesteps[1:], 0], strict=True):
            a, a_prev = self.alphas[t], self.alphas[t_prev]
            eps, pred_x0 = denoise(x, t)
            history = [eps, *history[:3]]
            if len(history) == 1:
                eps_prev, _ = denoise(ddim_step(pred_x0, eps, a_prev), t_prev)
                eps = (eps + eps_prev) / 2
            else:
                weights = ADAMS_BASHFORTH[len(history)]
                eps = sum((w * past for w, past in zip(weights, history, strict=True)), start=torch.zeros(()))
            pred_x0 = pred_x0_from_eps(x, eps, a)
            x = ddim_step(pred_x0, eps, a_prev)
            yield x, pred_x0
