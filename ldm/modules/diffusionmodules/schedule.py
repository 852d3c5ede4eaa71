"""The noise schedules of the forward process, as betas: q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I).

Sources: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models" (linear);
Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", equation 17 (cosine).
"""

import math

import torch

SCHEDULES = ("linear", "cosine")
COSINE_OFFSET = 0.008  # keeps the first beta from vanishing
MAX_BETA = 0.999  # of the cosine schedule, whose last beta would be 1 and make alphas_cumprod 0


def make_betas(
    schedule: str,
    n_timestep: int = 1000,
    linear_start: float = 8.5e-4,
    linear_end: float = 0.012,
) -> torch.Tensor:
    """Return the variance added at each training timestep, float64 [n_timestep].

    Args:
        schedule: "linear", which in every LDM yaml means linear in sqrt(beta), or "cosine".
        n_timestep: the number of training timesteps.
        linear_start, linear_end: the first and the last beta of "linear"; "cosine" has no parameters.

    Raises:
        ValueError: the schedule is unknown, there are no timesteps, or betas do not ascend within (0, 1).
    """
    if n_timestep < 1:
        raise ValueError(f"n_timestep must be at least 1, got {n_timestep}")
    if schedule == "linear":
        if not 0 < linear_start <= linear_end < 1:
            raise ValueError(f"0 < linear_start <= linear_end < 1 is needed, got {linear_start} and {linear_end}")
        return torch.linspace(linear_start**0.5, linear_end**0.5, n_timestep, dtype=torch.float64) ** 2
    if schedule == "cosine":
        time = torch.arange(n_timestep + 1, dtype=torch.float64) / n_timestep
        alphas_cumprod = torch.cos((time + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
        return (1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).clamp(max=MAX_BETA)
    raise ValueError(f"unknown beta schedule {schedule!r}; known are {', '.join(SCHEDULES)}")
