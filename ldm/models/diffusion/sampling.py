"""The part that all samplers share: settings, timesteps, noise, guidance, and the `Sampler` that runs them.

A sampler knows a model only by the `DiffusionModel` protocol. Its own file holds nothing but the update rule of its
paper, as a generator that yields (x, pred_x0) after each step.

Notation: a = alphas_cumprod[t], so that x_t = √a x0 + √(1 − a) eps. Timesteps run from 0 (almost clean) to n − 1
(almost pure noise), n = len(alphas_cumprod), 1000 for every published model. Coefficients are Python floats: double
precision, and no traffic to the device. States are float32, whatever precision the model computes in.
"""

import inspect
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

PARAMETERIZATIONS = ("eps", "v")
FEW_KNOTS: tuple[int, ...] = (999, 850, 480, 200, 0)  # timesteps of 1000 after 0, 1/4 … of the steps

Denoise = Callable[[Tensor, int], tuple[Tensor, Tensor]]  # (x, t) -> (eps, pred_x0), each [B, C, H, W]
States = Iterator[tuple[Tensor, Tensor]]  # (x, pred_x0) after each step, each [B, C, H, W]
StepCallback = Callable[[int, Tensor, Tensor], None]  # (i, x, pred_x0), i = 0 .. steps - 1


class DiffusionModel(Protocol):
    """The interface that a sampler needs of a model."""

    alphas_cumprod: Tensor  # [n], descending
    parameterization: str  # what the model predicts: "eps", or "v" = √a eps − √(1 − a) x0

    def conditioned(self, c: Tensor | None, x_T: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the model as a function of x [B, C, H, W] float32 and t [B] int64 to [B, C, H, W] of any float type.

        The conditioning c [B, L, D] or None and the start noise x_T [B, C, H, W] stay the same for the whole run.
        """
        ...

    def start(self, x_T: Tensor) -> Tensor:
        """Return the x [B, C, H, W] that sampling from the start noise `x_T` begins with."""
        ...


@dataclass(frozen=True)
class SamplingSettings:
    """Settings of one sampling run. A wrong value raises ValueError at once, before any model is needed."""

    steps: int = 50  # 1 .. n; exactly as many are made
    scale: float = 1.0  # of classifier-free guidance; 1 = the conditional model alone
    eta: float = 0.0  # noise added at each step: 0 = none, 1 = as much as DDPM; DDIM only
    guidance_interval: tuple[float, float] = (0.0, 1.0)  # guide only where lo <= t / (n - 1) <= hi
    guidance_rescale: float = 0.0  # φ of `rescale_contrast`: 0 = off, 1 = the contrast of unguided latents

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps must be a whole number from 1, got {self.steps!r}")
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(f"scale must be a finite number from 0, got {self.scale!r}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in 0 .. 1, got {self.eta!r}")
        interval = tuple(self.guidance_interval)
        if len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1:
            raise ValueError(f"guidance_interval must be (lo, hi) with 0 <= lo <= hi <= 1, got {interval!r}")
        if not 0 <= self.guidance_rescale <= 1:
            raise ValueError(f"guidance_rescale must lie in 0 .. 1, got {self.guidance_rescale!r}")


# --- timesteps -------------------------------------------------------------------------------------------------------


def leading_timesteps(steps: int, n: int = 1000) -> list[int]:
    """Return `steps` distinct timesteps, descending, i · n / steps (rounded down) + 1: 951, 901, … 1 for 20 of 1000.

    Where `steps` divides n they equal those of CompVis's "uniform" DDIM (diffusers: "leading", steps_offset=1), so that
    published images can be reproduced. Elsewhere CompVis rounds n / steps down first, and makes more steps than asked
    for or runs past the end of the schedule; here the number is kept. All n of n are n − 1 … 0, without the + 1.

    Raises:
        ValueError: `steps` is not in 1 .. n.
    """
    _check_steps(steps, n)
    offset = 0 if steps == n else 1
    return [i * n // steps + offset for i in reversed(range(steps))]


def linspace_timesteps(steps: int, n: int = 1000) -> list[int]:
    """Return `steps` distinct timesteps, descending, that divide 0 .. n − 1 evenly: 999, 949, … 50 for 20 of 1000.

    The first is always n − 1, where x_T is pure noise. 0 itself is left out, as the last step leads to clean data.
    They equal diffusers' "linspace" of DPMSolverMultistepScheduler, except for all n of n, where diffusers repeats one.

    Raises:
        ValueError: `steps` is not in 1 .. n.
    """
    _check_steps(steps, n)
    if steps == n:
        return list(range(n - 1, -1, -1))
    spacing = (n - 1) / steps  # first, then times i: rounds exact halves such as 499.5 as diffusers does
    return [round(i * spacing) for i in range(steps, 0, -1)]


def few_timesteps(steps: int, n: int = 1000) -> list[int]:
    """Return `steps` distinct timesteps, descending, for few steps: 999, 850, 480, 200 for 4 of 1000.

    These four follow from a coordinate search: with the built-in model, guidance at 850 and 480 alone, and
    DPM-Solver++(2M) they come near to 20 guided steps from the same noise (`python -m benchmarks.few_steps --search`
    searches likewise). Other numbers of steps lie on the polygon through them; more than n / 10 steps are even.

    Raises:
        ValueError: `steps` is not in 1 .. n.
    """
    _check_steps(steps, n)
    if 10 * steps > n:
        return linspace_timesteps(steps, n)
    knots = np.array(FEW_KNOTS) * (n - 1) / FEW_KNOTS[0]
    return np.interp(np.arange(steps) / steps, np.linspace(0, 1, len(knots)), knots).round().astype(int).tolist()


def _check_steps(steps: int, n: int) -> None:
    if not 1 <= steps <= n:
        raise ValueError(f"steps must be in 1 .. {n} (the timesteps that the model was trained on), got {steps}")


# --- noise -----------------------------------------------------------------------------------------------------------


def noise_stream(seeds: Sequence[int], shape: Sequence[int]) -> Iterator[Tensor]:
    """Yield N(0, I) noise [B, *shape] without end, float32 on the CPU; image b's depends on seeds[b] alone.

    Each image has its own generator, always on the CPU: a seed means the same image alone, in any batch, on any device.
    """
    generators = [torch.Generator().manual_seed(operator.index(seed)) for seed in seeds]
    while True:
        yield torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])


def seeded_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Draw start noise x_T [B, *shape], float32 on the CPU: the first of `noise_stream`.

    Raises:
        ValueError: there are no seeds.
    """
    if len(seeds) == 0:
        raise ValueError("seeds must hold one seed for each image, got none")
    return next(noise_stream(seeds, shape))


# --- the model as a function -----------------------------------------------------------------------------------------


def pred_x0_from_eps(x: Tensor, eps: Tensor, a: float) -> Tensor:
    """Compute the clean latents [B, C, H, W] that x_t and its noise imply: x0 = (x − √(1 − a) eps) / √a."""
    return (x - math.sqrt(1 - a) * eps) / math.sqrt(a)


def eps_from_pred_x0(x: Tensor, pred_x0: Tensor, a: float) -> Tensor:
    """Compute the noise [B, C, H, W] that x_t and its clean latents imply: eps = (x − √a x0) / √(1 − a)."""
    return (x - math.sqrt(a) * pred_x0) / math.sqrt(1 - a)


def eps_and_pred_x0(output: Tensor, x: Tensor, a: float, parameterization: str) -> tuple[Tensor, Tensor]:
    """Compute noise and clean latents, [B, C, H, W] each, from a model's output at x_t.

    With v = √a eps − √(1 − a) x0 (Salimans & Ho 2022, appendix D) both are a rotation of (x, v):
    eps = √a v + √(1 − a) x, and x0 = √a x − √(1 − a) v.
    """
    if parameterization == "eps":
        return output, pred_x0_from_eps(x, output, a)
    signal, noise = math.sqrt(a), math.sqrt(1 - a)
    return signal * output + noise * x, signal * x - noise * output


def rescale_contrast(guided: Tensor, cond: Tensor, phi: float) -> Tensor:
    """Move the standard deviation of clean latents `guided` [B, C, H, W] towards that of `cond`, image by image.

    phi = 0 changes nothing, 1 goes all the way. Guidance raises contrasts, most of all at high noise levels (Lin et al.
    2024, arXiv 2305.08891, equations 15 and 16, where the model's prediction is rescaled).
    """
    std_guided, std_cond = (x.std(dim=(1, 2, 3), keepdim=True) for x in (guided, cond))
    return guided * (phi * std_cond / std_guided + (1 - phi))


def guided_denoiser(
    model: DiffusionModel,
    alphas: Sequence[float],
    x_T: Tensor,
    conditioning: Tensor | None,
    unconditional: Tensor | None,
    settings: SamplingSettings,
) -> Denoise:
    """Return the model with classifier-free guidance (Ho & Salimans 2022) as a function (x, t) -> (eps, pred_x0).

    output = uncond + scale · (cond − uncond), both from one batch of 2B, then `rescale_contrast`. The unconditional
    half is not computed where it has no effect: at scale 1, without `unconditional`, and outside the guidance
    interval, where guidance does harm or nothing (Kynkäänniemi et al. 2024, arXiv 2404.07724).

    Args:
        alphas: the model's alphas_cumprod as floats.
        x_T: start noise [B, C, H, W].
        conditioning, unconditional: embeddings [B, L, D].
    """
    lo, hi = (bound * (len(alphas) - 1) for bound in settings.guidance_interval)
    # made on first use: it may cost a prior for each image, and is never needed if every step is guided
    alone = cache(lambda: model.conditioned(conditioning, x_T))
    both = None
    if settings.scale != 1 and unconditional is not None and conditioning is not None:
        both = model.conditioned(torch.cat([unconditional, conditioning]), torch.cat([x_T, x_T]))

    def denoise(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        split = partial(eps_and_pred_x0, x=x, a=alphas[t], parameterization=model.parameterization)
        if both is None or not lo <= t <= hi:
            return split(alone()(x, _filled(t, len(x), x)).float())
        uncond, cond = both(torch.cat([x, x]), _filled(t, 2 * len(x), x)).float().chunk(2)
        eps, pred_x0 = split(uncond + settings.scale * (cond - uncond))
        if settings.guidance_rescale:
            pred_x0 = rescale_contrast(pred_x0, split(cond)[1], settings.guidance_rescale)
            eps = eps_from_pred_x0(x, pred_x0, alphas[t])  # so that x_t is still √a x0 + √(1 − a) eps
        return eps, pred_x0

    return denoise


def _filled(t: int, batch_size: int, x: Tensor) -> Tensor:
    return torch.full((batch_size,), t, dtype=torch.long, device=x.device)


# --- the sampler -----------------------------------------------------------------------------------------------------


class Sampler:
    """Base of the samplers. A subclass provides `_loop`, the update rule of its paper, and the two attributes below."""

    stochastic = False  # whether eta > 0 is allowed
    timesteps: Callable[..., list[int]]  # (steps, n) -> descending

    def __init__(self, model: DiffusionModel) -> None:
        """Check the noise schedule of `model`.

        Raises:
            ValueError: an unknown parameterization, or alphas_cumprod outside (0, 1).
        """
        if model.parameterization not in PARAMETERIZATIONS:
            known = ", ".join(PARAMETERIZATIONS)
            raise ValueError(f"the model's parameterization is {model.parameterization!r}; known are {known}")
        self.model = model
        self.alphas: list[float] = model.alphas_cumprod.cpu().double().tolist()  # cpu() first: MPS has no double
        if not all(0 < a < 1 for a in self.alphas):
            raise ValueError("the model's alphas_cumprod must lie between 0 and 1, both excluded")

    def _loop(self, x: Tensor, denoise: Denoise, timesteps: list[int], eta: float, noise: Iterator[Tensor]) -> States:
        """Go from x = x_T to x_0 along `timesteps` (descending); yield (x, pred_x0) after each step."""
        raise NotImplementedError

    @classmethod
    def verify(cls, settings: SamplingSettings, n: int = 1000) -> None:
        """Raise ValueError if this sampler cannot follow `settings` with a model of n timesteps."""
        _check_steps(settings.steps, n)
        if settings.eta and not cls.stochastic:
            raise ValueError(f"eta must be 0 for {cls.__name__}, which adds no noise; got {settings.eta!r}")

    def trajectory(
        self,
        x_T: Tensor,
        settings: SamplingSettings,
        conditioning: Tensor | None = None,
        unconditional: Tensor | None = None,
        seeds: Sequence[int] | None = None,
    ) -> States:
        """Sample step by step: yield (x, pred_x0), float32 [B, C, H, W], after each of `settings.steps` steps.

        Arguments are checked at the call, before the first step.

        Args:
            x_T: start noise [B, C, H, W]. It is converted to float32 and moved to the device of `conditioning`.
            settings: steps, guidance and added noise.
            conditioning: embeddings [B, L, D], or [1, L, D] for all images.
            unconditional: the same for guidance away from it; None: no guidance.
            seeds: one for each image, for the noise that eta > 0 adds. That noise never repeats `seeded_noise(seeds)`.

        Raises:
            ValueError: the arguments do not fit this sampler, the model or each other.
        """
        self.verify(settings, len(self.alphas))
        if x_T.ndim != 4:
            raise ValueError(f"x_T must be [B, C, H, W], got {list(x_T.shape)}")
        if settings.eta and (seeds is None or len(seeds) != len(x_T)):
            raise ValueError(f"eta > 0 needs one seed for each of the {len(x_T)} images, got {seeds!r}")
        if unconditional is not None and conditioning is None:
            raise ValueError("unconditional conditioning was given without conditioning")
        x = x_T.to(x_T.device if conditioning is None else conditioning.device, torch.float32)
        c, uc = (_one_for_each(embedding, len(x)) for embedding in (conditioning, unconditional))
        denoise = guided_denoiser(self.model, self.alphas, x, c, uc, settings)
        noise = noise_stream(() if seeds is None else seeds, x.shape[1:])
        if settings.eta:
            next(noise)  # skip the start noise, of which x_T may be made
        timesteps = self.timesteps(settings.steps, len(self.alphas))
        return self._loop(self.model.start(x), denoise, timesteps, settings.eta, noise)

    def run(
        self,
        x_T: Tensor,
        settings: SamplingSettings,
        conditioning: Tensor | None = None,
        unconditional: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        on_step: StepCallback | None = None,
    ) -> Tensor:
        """Sample latents [B, C, H, W] float32; the arguments are those of `trajectory`.

        Args:
            on_step: called as on_step(i, x, pred_x0) after step i = 0 .. steps − 1.

        Raises:
            ValueError: the arguments do not fit this sampler, the model or each other.
        """
        x = x_T
        for i, (x, pred_x0) in enumerate(self.trajectory(x_T, settings, conditioning, unconditional, seeds)):
            if on_step is not None:
                on_step(i, x, pred_x0)
        return x

    def sample(
        self,
        S: int,
        batch_size: int = 1,
        shape: Sequence[int] = (4, 32, 32),
        conditioning: Tensor | None = None,
        *,
        x_T: Tensor | None = None,
        eta: float = 0.0,
        unconditional_guidance_scale: float = 1.0,
        unconditional_conditioning: Tensor | None = None,
        verbose: bool = False,
        **unsupported: object,
    ) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """Sample latents with the argument names of CompVis's samplers: a thin front of `trajectory`.

        Args:
            S: number of steps.
            batch_size: number of images B.
            shape: latents of one image, (C, H, W).
            x_T: start noise [B, C, H, W]; drawn from torch's global generator if None.
            conditioning, unconditional_conditioning: embeddings [B, L, D] or [1, L, D].
            eta, unconditional_guidance_scale: see `SamplingSettings`.
            verbose: accepted for compatibility; nothing is printed.

        Returns:
            samples [B, C, H, W] float32; and intermediates, "x_inter" and "pred_x0": x_T, then the state of each step.

        Raises:
            TypeError: an argument that is not supported, by name.
            ValueError: a value that is not allowed.
        """
        if unsupported:
            allowed = [name for name in inspect.signature(self.sample).parameters if name != "unsupported"]
            raise TypeError(
                f"{type(self).__name__}.sample() does not support {', '.join(unsupported)}; "
                f"allowed: {', '.join(allowed)}"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if len(shape) != 3:
            raise ValueError(f"shape must be (C, H, W), got {tuple(shape)}")
        if x_T is not None and tuple(x_T.shape) != (batch_size, *shape):
            raise ValueError(f"x_T must be [batch_size, *shape] = {[batch_size, *shape]}, got {list(x_T.shape)}")
        settings = SamplingSettings(S, unconditional_guidance_scale, eta)
        # the global generator is left alone where no noise is needed
        seeds = torch.randint(2**31, (batch_size,)).tolist() if x_T is None or eta else []
        x_T = seeded_noise(seeds, shape) if x_T is None else x_T
        states = [(x_T, x_T), *self.trajectory(x_T, settings, conditioning, unconditional_conditioning, seeds)]
        return states[-1][0], {"x_inter": [x for x, _ in states], "pred_x0": [pred_x0 for _, pred_x0 in states]}


def _one_for_each(embedding: Tensor | None, batch_size: int) -> Tensor | None:
    """Expand an embedding [1, L, D] or [B, L, D] to [B, L, D]; ValueError for any other number."""
    if embedding is None or len(embedding) == batch_size:
        return embedding
    if len(embedding) != 1:
        raise ValueError(f"conditioning must be for 1 image or for all {batch_size}, got it for {len(embedding)}")
    return embedding.expand(batch_size, *embedding.shape[1:])
