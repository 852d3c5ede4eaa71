"""DPM-Solver++(2M): Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling ...", arXiv 2211.01095."""

import math
from collections.abc import Iterator

from torch import Tensor

from ldm.models.diffusion.sampling import Denoise, Sampler, States, few_timesteps, linspace_timesteps


class DPMSolverSampler(Sampler):
    """Algorithm 2 of the paper: a second-order multistep method in x0, one model evaluation a step.

    With λ = log(α / σ), α = √a, σ = √(1 − a), and going from s to t:

    h = λ_t − λ_s,  r = h_before / h
    D = x0_s + (x0_s − x0_before) / (2 r)
    x_t = (σ_t / σ_s) x_s − α_t (exp(−h) − 1) D

    The first step has no x0 before it, and the last one, from the lowest timestep to σ = 0, has an infinite h: both
    take D = x0_s (order 1; the last x is therefore the last pred_x0). Timesteps are evenly spaced and begin at n − 1,
    where x_T is pure noise. Both are the defaults of diffusers' DPMSolverMultistepScheduler. Its lower_order_final for
    few steps changes nothing more, since the last step is of order 1 at every number of steps.
    """

    timesteps = staticmethod(linspace_timesteps)

    def _loop(self, x: Tensor, denoise: Denoise, timesteps: list[int], eta: float, noise: Iterator[Tensor]) -> States:
        before, h_before = None, math.nan
        levels = [*(self.alphas[t] for t in timesteps), 1.0]  # a = 1 is clean data
        for t, a_s, a_t in zip(timesteps, levels[:-1], levels[1:], strict=True):
            _, pred_x0 = denoise(x, t)
            h = _half_log_snr(a_t) - _half_log_snr(a_s)
            D = pred_x0  # order 1
            if before is not None and a_t < 1:  # order 2
                D = pred_x0 + h / (2 * h_before) * (pred_x0 - before)
            x = math.sqrt((1 - a_t) / (1 - a_s)) * x - math.sqrt(a_t) * math.expm1(-h) * D
            before, h_before = pred_x0, h
            yield x, pred_x0


class FewStepSampler(DPMSolverSampler):
    """DPM-Solver++(2M) with timesteps for few steps. Guidance is needed at 0.3 … 0.9 of the noise schedule only."""

    timesteps = staticmethod(few_timesteps)


def _half_log_snr(a: float) -> float:
    """Compute λ = log(√a / √(1 − a)); infinite for clean data (a = 1)."""
    return math.inf if a == 1 else 0.5 * (math.log(a) - math.log1p(-a))
