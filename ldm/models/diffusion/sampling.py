"""What all samplers share: options, timesteps, noise, the guided model as one function, and the front `sample()`.

A sampler knows a model only by `alphas_cumprod`, `parameterization` and `apply_model` (see `DiffusionModel`). Its own
file holds its update rule alone, as a generator that yields (x, pred_x0) once a step.

Notation: a = alphas_cumprod[t], so that x_t = sqrt(a) x0 + sqrt(1 - a) eps. Timesteps run from 0 (almost clean) to
n - 1 (almost pure noise), n = len(alphas_cumprod), 1000 for every published model. Coefficients are Python floats
(double precision, no device traffic), states are float32 whatever precision the model computes in.
"""

import inspect
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol

import torch
from tqdm import tqdm

PARAMETERIZATIONS = ("eps", "v")

Denoise = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]  # (x, t) -> (eps, pred_x0)
StepCallback = Callable[[int, torch.Tensor, torch.Tensor], None]  # (i, x, pred_x0), i = 0 .. steps - 1


class DiffusionModel(Protocol):
    """All that a sampler asks of a model."""

    alphas_cumprod: torch.Tensor  # [n], descending
    parameterization: str  # what apply_model predicts: "eps", or "v" = sqrt(a) eps - sqrt(1 - a) x0

    def conditioned(
        self, c: torch.Tensor | None, x_T: torch.Tensor
    ) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """For conditioning c [B, L, D] or None and start noise x_T [B, C, H, W]: the model as a function of
        x [B, C, H, W] float32 and t [B] int64, which gives [B, C, H, W] of any floating type."""
        ...

    def start(self, x_T: torch.Tensor) -> torch.Tensor:
        """The x [B, C, H, W] that sampling from start noise `x_T` begins with."""
        ...


@dataclass(frozen=True)
class SamplerOptions:
    """How to sample; a wrong value raises ValueError at once, before any model is needed."""

    steps: int = 50  # exactly as many are made; 1 .. n
    scale: float = 1.0  # of classifier-free guidance: 1 = the conditional model alone
    eta: float = 0.0  # 0 = deterministic, 1 = as much noise a step as DDPM; DDIM only
    guidance_interval: tuple[float, float] = (0.0, 1.0)  # guide only while lo <= t / (n - 1) <= hi
    guidance_rescale: float = 0.0  # phi of `rescaled`: 0 = guided latents as they are, 1 = as loud as unguided ones

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
    """`steps` distinct timesteps, descending, spaced i * n / steps (rounded down) + 1: 951, 901, ... 1 for 20 of 1000.

    Where `steps` divides n they are those of CompVis's "uniform" DDIM (diffusers: "leading", steps_offset=1), so that
    published pictures come out the same. Elsewhere CompVis rounds n / steps down first, and makes more steps than
    asked for or runs past the end of the schedule; here the number is kept. All n of n are n-1 .. 0, without the + 1.

    Raises:
        ValueError: if `steps` is not in 1 .. n.
    """
    _check_steps(steps, n)
    offset = 0 if steps == n else 1
    return [i * n // steps + offset for i in reversed(range(steps))]


def linspace_timesteps(steps: int, n: int = 1000) -> list[int]:
    """`steps` distinct timesteps, descending, that cut 0 .. n-1 into equal parts: 999, 949, ... 50 for 20 of 1000.

    The first is always n - 1, where x_T is pure noise; 0 itself is left out, as the last step leads to clean data.
    The same as diffusers' "linspace" of DPMSolverMultistepScheduler, but for all n of n, which there repeat one.

    Raises:
        ValueError: if `steps` is not in 1 .. n.
    """
    _check_steps(steps, n)
    if steps == n:
        return list(range(n - 1, -1, -1))
    spacing = (n - 1) / steps  # first, then times i: the same rounding as diffusers at exact halves such as 499.5
    return [round(i * spacing) for i in range(steps, 0, -1)]


def _check_steps(steps: int, n: int) -> None:
    if not 1 <= steps <= n:
        raise ValueError(f"steps must be in 1 .. {n} (the timesteps that the model was trained on), got {steps}")


# --- noise -----------------------------------------------------------------------------------------------------------


def noise_stream(seeds: Sequence[int], shape: Sequence[int]) -> Iterator[torch.Tensor]:
    """Endless N(0, I) noise [B, *shape], float32 on the CPU; image b's is drawn from seeds[b] alone.

    One generator per image, and always on the CPU: a seed means the same picture alone, in any batch, on any device.
    """
    generators = [torch.Generator().manual_seed(operator.index(seed)) for seed in seeds]
    while True:
        yield torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])


def seeded_noise(seeds: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
    """Start noise x_T [B, *shape], float32 on the CPU: the first draw of `noise_stream`.

    Raises:
        ValueError: if there are no seeds.
    """
    if len(seeds) == 0:
        raise ValueError("seeds must hold one seed for each image, got none")
    return next(noise_stream(seeds, shape))


# --- the model as a function -----------------------------------------------------------------------------------------


def pred_x0_from_eps(x: torch.Tensor, eps: torch.Tensor, a: float) -> torch.Tensor:
    """The clean latents [B, C, H, W] that x_t and its noise imply: x0 = (x - sqrt(1 - a) eps) / sqrt(a)."""
    return (x - math.sqrt(1 - a) * eps) / math.sqrt(a)


def eps_from_pred_x0(x: torch.Tensor, pred_x0: torch.Tensor, a: float) -> torch.Tensor:
    """The noise [B, C, H, W] that x_t and its clean latents imply: eps = (x - sqrt(a) x0) / sqrt(1 - a)."""
    return (x - math.sqrt(a) * pred_x0) / math.sqrt(1 - a)


def eps_and_pred_x0(
    output: torch.Tensor, x: torch.Tensor, a: float, parameterization: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise and clean latents, [B, C, H, W] each, from a model's output at x_t.

    With v = sqrt(a) eps - sqrt(1 - a) x0 (Salimans & Ho 2022, appendix D) both are a rotation of (x, v):
    eps = sqrt(a) v + sqrt(1 - a) x, and x0 = sqrt(a) x - sqrt(1 - a) v.
    """
    if parameterization == "eps":
        return output, pred_x0_from_eps(x, output, a)
    signal, noise = math.sqrt(a), math.sqrt(1 - a)
    return signal * output + noise * x, signal * x - noise * output


def rescaled(guided: torch.Tensor, cond: torch.Tensor, phi: float) -> torch.Tensor:
    """Clean latents [B, C, H, W] `guided`, on the way by `phi` to the standard deviation of `cond`, image by image.

    Guidance makes contrasts louder, most of all where there is much noise (Lin et al. 2024, arXiv 2305.08891, equations
    15 and 16, there of what the model predicts).
    """
    loudness, wanted = (x.std(dim=(1, 2, 3), keepdim=True) for x in (guided, cond))
    return guided * (phi * wanted / loudness + (1 - phi))


def guided_denoiser(
    model: DiffusionModel,
    alphas: Sequence[float],
    x_T: torch.Tensor,
    c: torch.Tensor | None,
    uc: torch.Tensor | None,
    options: SamplerOptions,
) -> Denoise:
    """The model with classifier-free guidance (Ho & Salimans 2022), as a function (x, t) -> (eps, pred_x0).

    output = uncond + scale (cond - uncond), both from one batch of 2B, then `rescaled`. The unconditional half is left
    out where it would not count: at scale 1, without `uc`, and outside of the guidance interval, where guidance does
    harm or nothing (Kynkaanniemi et al. 2024, arXiv 2404.07724).

    Args:
        alphas: the model's alphas_cumprod as floats.
        x_T: start noise [B, C, H, W].
        c, uc: conditioning and unconditional conditioning, [B, L, D].
    """
    lo, hi = (bound * (len(alphas) - 1) for bound in options.guidance_interval)
    alone = cache(lambda: model.conditioned(c, x_T))  # where all is guided it is not needed, and may be work
    both = None
    if options.scale != 1 and uc is not None and c is not None:
        both = model.conditioned(torch.cat([uc, c]), torch.cat([x_T, x_T]))

    def denoise(x: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        split = partial(eps_and_pred_x0, x=x, a=alphas[t], parameterization=model.parameterization)
        if both is None or not lo <= t <= hi:
            return split(alone()(x, _filled(t, len(x), x)).float())
        uncond, cond = both(torch.cat([x, x]), _filled(t, 2 * len(x), x)).float().chunk(2)
        eps, pred_x0 = split(uncond + options.scale * (cond - uncond))
        if options.guidance_rescale:
            pred_x0 = rescaled(pred_x0, split(cond)[1], options.guidance_rescale)
            eps = eps_from_pred_x0(x, pred_x0, alphas[t])
        return eps, pred_x0

    return denoise


def _filled(t: int, batch_size: int, x: torch.Tensor) -> torch.Tensor:
    return torch.full((batch_size,), t, dtype=torch.long, device=x.device)


# --- the front -------------------------------------------------------------------------------------------------------


class Sampler:
    """The front of every sampler. A subclass gives `_loop`, its paper's update rule, and the two attributes below."""

    stochastic = False  # whether eta > 0 is allowed
    timesteps: Callable[..., list[int]]  # (steps, n) -> descending

    def __init__(self, model: DiffusionModel) -> None:
        if model.parameterization not in PARAMETERIZATIONS:
            known = ", ".join(PARAMETERIZATIONS)
            raise ValueError(f"the model's parameterization is {model.parameterization!r}; known are {known}")
        self.model = model
        self.alphas: list[float] = model.alphas_cumprod.cpu().double().tolist()  # cpu() first: MPS has no double
        if not all(0 < a < 1 for a in self.alphas):
            raise ValueError("the model's alphas_cumprod must lie between 0 and 1, both excluded")

    def _loop(
        self,
        x: torch.Tensor,
        denoise: Denoise,
        timesteps: list[int],
        eta: float,
        noise: Iterator[torch.Tensor],
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """From x = x_T to x_0 along `timesteps` (descending); yields (x, pred_x0) [B, C, H, W] after each step."""
        raise NotImplementedError

    @classmethod
    def verify(cls, options: SamplerOptions, n: int = 1000) -> None:
        """Raises ValueError if this sampler cannot follow `options` with a model of n timesteps."""
        _check_steps(options.steps, n)
        if options.eta and not cls.stochastic:
            raise ValueError(f"eta must be 0 for {cls.__name__}, which adds no noise; got {options.eta!r}")

    def trajectory(
        self,
        x_T: torch.Tensor,
        c: torch.Tensor | None,
        uc: torch.Tensor | None,
        options: SamplerOptions,
        seeds: Sequence[int] | None = None,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The sampling itself, step by step: (x, pred_x0) after each of `options.steps` steps, float32 [B, C, H, W].

        Args:
            x_T: start noise [B, C, H, W]; taken to float32 and to the device of `c`, where the model made it.
            c, uc: conditioning, unconditional conditioning [B, L, D]; one of [1, L, D] counts for every image.
            seeds: one for each image, for the noise of eta > 0. That noise never repeats `seeded_noise(seeds)`.

        Raises:
            ValueError: if options, x_T, conditionings and seeds do not fit this sampler, the model or each other.
        """
        self.verify(options, len(self.alphas))
        if x_T.ndim != 4:
            raise ValueError(f"x_T must be [B, C, H, W], got {list(x_T.shape)}")
        if options.eta and (seeds is None or len(seeds) != len(x_T)):
            raise ValueError(f"eta > 0 needs one seed for each of the {len(x_T)} images, got {seeds!r}")
        if uc is not None and c is None:
            raise ValueError("unconditional conditioning was given without conditioning")
        x = x_T.to(x_T.device if c is None else c.device, torch.float32)
        c, uc = (_one_for_each(conditioning, len(x)) for conditioning in (c, uc))
        denoise = guided_denoiser(self.model, self.alphas, x, c, uc, options)
        noise = noise_stream(() if seeds is None else seeds, x.shape[1:])
        if options.eta:
            next(noise)  # the start noise, which x_T may be made of
        timesteps = self.timesteps(options.steps, len(self.alphas))
        return self._loop(self.model.start(x), denoise, timesteps, options.eta, noise)

    def sample(
        self,
        S: int,
        batch_size: int = 1,
        shape: Sequence[int] = (4, 32, 32),
        conditioning: torch.Tensor | None = None,
        *,
        x_T: torch.Tensor | None = None,
        eta: float = 0.0,
        unconditional_guidance_scale: float = 1.0,
        unconditional_conditioning: torch.Tensor | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_rescale: float = 0.0,
        seeds: Sequence[int] | None = None,
        callback: StepCallback | None = None,
        log_every_t: int = 100,
        verbose: bool = True,
        desc: str | None = None,
        **refused: object,
    ) -> tuple[torch.Tensor, dict[str, list[torch.Tensor]]]:
        """Samples latents; CompVis's names for the arguments, in front of `trajectory`.

        Args:
            S: the number of steps.
            shape: of one image's latents, (C, H, W).
            conditioning, unconditional_conditioning: [B, L, D] or [1, L, D]. Without the latter nothing is guided.
            x_T: start noise [B, C, H, W]; drawn from `seeds` if None.
            seeds: one for each image; drawn from torch's global generator if None.
            callback: called as callback(i, x, pred_x0) after step i = 0 .. S - 1.
            log_every_t: intermediates keep the first step, and each that this divides, counted from the last.
            verbose, desc: whether to show a progress bar, and its label.

        Returns:
            samples [B, C, H, W] float32, and intermediates: lists "x_inter" and "pred_x0", both beginning with x_T.

        Raises:
            TypeError: for an argument that is not supported, by name. ValueError: for a value that is not allowed.
        """
        if refused:
            raise TypeError(self._refusal(refused))
        options = SamplerOptions(S, unconditional_guidance_scale, eta, guidance_interval, guidance_rescale)
        seeds = torch.randint(2**31, (batch_size,)).tolist() if seeds is None else seeds
        _check_batch(batch_size, shape, x_T, seeds, log_every_t)
        x_T = seeded_noise(seeds, shape) if x_T is None else x_T
        steps = self.trajectory(x_T, conditioning, unconditional_conditioning, options, seeds)
        bar = tqdm(steps, desc or type(self).__name__, total=S, disable=not verbose)
        return _run(bar, S, x_T, callback, log_every_t)

    def _refusal(self, refused: dict[str, object]) -> str:
        allowed = [name for name in inspect.signature(self.sample).parameters if name != "refused"]
        return f"{type(self).__name__}.sample() does not support {', '.join(refused)}; allowed: {', '.join(allowed)}"


def _run(
    steps: Iterable[tuple[torch.Tensor, torch.Tensor]],
    S: int,
    x_T: torch.Tensor,
    callback: StepCallback | None,
    log_every_t: int,
) -> tuple[torch.Tensor, dict[str, list[torch.Tensor]]]:
    """Goes through all steps of a trajectory; `sample()` documents the result."""
    x = x_T
    intermediates = {"x_inter": [x_T], "pred_x0": [x_T]}
    for i, (x, pred_x0) in enumerate(steps):
        if callback is not None:
            callback(i, x, pred_x0)
        if i == 0 or (S - 1 - i) % log_every_t == 0:
            intermediates["x_inter"].append(x)
            intermediates["pred_x0"].append(pred_x0)
    return x, intermediates


def _one_for_each(conditioning: torch.Tensor | None, batch_size: int) -> torch.Tensor | None:
    """[1, L, D] or [B, L, D] -> [B, L, D]; ValueError for any other number."""
    if conditioning is None or len(conditioning) == batch_size:
        return conditioning
    if len(conditioning) != 1:
        raise ValueError(f"conditioning must be for 1 image or for all {batch_size}, got it for {len(conditioning)}")
    return conditioning.expand(batch_size, *conditioning.shape[1:])


def _check_batch(
    batch_size: int, shape: Sequence[int], x_T: torch.Tensor | None, seeds: Sequence[int], log_every_t: int
) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if len(shape) != 3:
        raise ValueError(f"shape must be (C, H, W), got {tuple(shape)}")
    if x_T is not None and tuple(x_T.shape) != (batch_size, *shape):
        raise ValueError(f"x_T must be [batch_size, *shape] = {[batch_size, *shape]}, got {list(x_T.shape)}")
    if len(seeds) != batch_size:
        raise ValueError(f"one seed for each of the {batch_size} images is needed, got {len(seeds)}")
    if log_every_t < 1:
        raise ValueError(f"log_every_t must be at least 1, got {log_every_t}")
