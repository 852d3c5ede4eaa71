"""Compare the samplers with diffusers and closed forms, and test steps, seeds and numbers of evaluations."""

import math
import os
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ldm.models.diffusion.ddim import DDIMSampler
from ldm.models.diffusion.dpm_solver import DPMSolverSampler, FewStepSampler
from ldm.models.diffusion.plms import PLMSSampler
from ldm.models.diffusion.sampling import (
    SamplingSettings,
    few_timesteps,
    guided_denoiser,
    leading_timesteps,
    linspace_timesteps,
    noise_stream,
    seeded_noise,
)
from ldm.modules.diffusionmodules.schedule import make_betas

# a warning of diffusers with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SAMPLERS = [DDIMSampler, PLMSSampler, DPMSolverSampler, FewStepSampler]
SCALED_LINEAR = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# Among them some with which CompVis's DDIM stops with an IndexError. All of them take a quarter of an hour:
# VOICETOIMG_EVERY_STEP_COUNT=1 python -m pytest tests/ldm/test_samplers.py -k "one_evaluation or every_step_count"
FEW_STEP_COUNTS = [1, 2, 3, 4, 9, 36, 75, 101, 333]
STEP_COUNTS = range(1, 1001) if os.environ.get("VOICETOIMG_EVERY_STEP_COUNT") else FEW_STEP_COUNTS


class StartlessModel:
    """A model without a prior: sampling starts from x_T itself."""

    def apply_model(self, x, t, c):
        raise NotImplementedError

    def conditioned(self, c, x_T):
        return partial(self.apply_model, c=c)

    def start(self, x_T):
        return x_T


class ToyModel(StartlessModel):
    """A nearly ideal denoiser of N(0, I) data, made non-linear by a fixed random convolution; cheap, not exact."""

    def __init__(self, parameterization="eps", betas=None):
        generator = torch.Generator().manual_seed(7)
        betas = make_betas("linear") if betas is None else betas
        self.alphas_cumprod = torch.cumprod(1 - betas, 0).float()
        self.parameterization = parameterization
        self.weight = torch.randn(4, 4, 3, 3, generator=generator) / 6
        self.calls = []  # (batch size, timestep) of each evaluation

    def apply_model(self, x, t, c):
        assert t.dtype == torch.long and t.shape == (len(x),)
        self.calls.append((len(x), int(t[0])))
        time = (t / 1000).view(-1, 1, 1, 1)
        bias = 0 if c is None else c.mean((1, 2)).view(-1, 1, 1, 1)
        disturbed = 0.3 * torch.tanh(F.conv2d(x, self.weight[: x.shape[1], : x.shape[1]], padding=1) + time + bias)
        if self.parameterization == "v":
            return disturbed
        return (1 - self.alphas_cumprod[t]).sqrt().view(-1, 1, 1, 1) * x + disturbed


class KnowsX0(StartlessModel):
    """The exact model of a data set of one element: its eps (or v) leads from any x to x0."""

    alphas_cumprod = torch.cumprod(1 - make_betas("linear"), 0)

    def __init__(self, x0, parameterization):
        self.x0, self.parameterization = x0.double(), parameterization

    def apply_model(self, x, t, c):
        a = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        eps = (x - a.sqrt() * self.x0) / (1 - a).sqrt()
        return eps if self.parameterization == "eps" else a.sqrt() * eps - (1 - a).sqrt() * self.x0


class UnitGaussianData(StartlessModel):
    """The exact eps of N(0, I) data. Every x_t is N(0, I) then: the probability-flow ODE leaves x_T as it is."""

    parameterization = "eps"
    alphas_cumprod = torch.cumprod(1 - make_betas("linear"), 0)

    def apply_model(self, x, t, c):
        return (1 - self.alphas_cumprod[t]).sqrt().view(-1, 1, 1, 1) * x


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(sampler, steps, x_T, conditioning=None, unconditional=None, seeds=None, on_step=None, **settings):
    return sampler.run(x_T, SamplingSettings(steps, **settings), conditioning, unconditional, seeds, on_step)


def relative_difference(x, reference):
    return float((x - reference).abs().max() / reference.abs().max())


# --- against diffusers -----------------------------------------------------------------------------------------------


def run_diffusers(scheduler, model, x, steps, as_eps=False, **step_kwargs):
    scheduler.set_timesteps(steps)
    for i, t in enumerate(scheduler.timesteps):
        output = model.apply_model(x, t.expand(len(x)), None)
        if as_eps and model.parameterization == "v":
            a = model.alphas_cumprod[t]
            output = a.sqrt() * output + (1 - a).sqrt() * x
        x = scheduler.step(output, t, x, **{name: f(i) for name, f in step_kwargs.items()}).prev_sample
    return x


def prediction_type(parameterization):
    return {"eps": "epsilon", "v": "v_prediction"}[parameterization]


@pytest.mark.parametrize("parameterization", ["eps", "v"])
@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_agrees_with_diffusers(steps, eta, parameterization):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        **SCALED_LINEAR,
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
        prediction_type=prediction_type(parameterization),
    )
    model, x_T, seeds = ToyModel(parameterization), noise(2, 4, 8, 8), [3, 4]
    stream = noise_stream(seeds, (4, 8, 8))
    next(stream)
    reference = run_diffusers(
        scheduler, model, x_T, steps, eta=lambda i: eta, variance_noise=lambda i: next(stream) if eta else None
    )
    result = run(DDIMSampler(model), steps, x_T, eta=eta, seeds=seeds)
    assert relative_difference(result, reference) < 1e-4


@pytest.mark.parametrize("parameterization", ["eps", "v"])
@pytest.mark.parametrize("steps", [2, 10, 20, 50])
def test_plms_agrees_with_diffusers(steps, parameterization):
    diffusers = pytest.importorskip("diffusers")
    # The scheduler is always given eps: of a v-model it would combine the v of different timesteps.
    scheduler = diffusers.PNDMScheduler(**SCALED_LINEAR, steps_offset=1, skip_prk_steps=True)
    model, x_T = ToyModel(parameterization), noise(2, 4, 8, 8)
    reference = run_diffusers(scheduler, model, x_T, steps, as_eps=True)
    assert relative_difference(run(PLMSSampler(model), steps, x_T), reference) < 1e-4


@pytest.mark.parametrize("parameterization", ["eps", "v"])
@pytest.mark.parametrize("steps", [1, 2, 14, 15, 50])
def test_dpm_solver_agrees_with_diffusers(steps, parameterization):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **SCALED_LINEAR, prediction_type=prediction_type(parameterization)
    )
    model, x_T = ToyModel(parameterization), noise(2, 4, 8, 8)
    reference = run_diffusers(scheduler, model, x_T, steps)
    assert relative_difference(run(DPMSolverSampler(model), steps, x_T), reference) < 1e-4


def test_timesteps_agree_with_diffusers():
    diffusers = pytest.importorskip("diffusers")
    ddim = diffusers.DDIMScheduler(**SCALED_LINEAR, steps_offset=1)
    for steps in [s for s in range(1, 1000) if 1000 % s == 0]:
        ddim.set_timesteps(steps)
        assert leading_timesteps(steps) == ddim.timesteps.tolist()
    dpm = diffusers.DPMSolverMultistepScheduler(**SCALED_LINEAR)
    for steps in range(1, 1000):
        dpm.set_timesteps(steps)
        assert linspace_timesteps(steps) == dpm.timesteps.tolist()


def test_betas_agree_with_diffusers():
    diffusers = pytest.importorskip("diffusers")
    schedules: dict[str, Any] = {"linear": SCALED_LINEAR, "cosine": {"beta_schedule": "squaredcos_cap_v2"}}
    for name, theirs in schedules.items():
        betas = make_betas(name)
        assert betas.dtype == torch.float64
        assert torch.allclose(betas.float(), diffusers.DDIMScheduler(**theirs).betas, rtol=1e-3, atol=1e-6)


# --- against closed forms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameterization", ["eps", "v"])
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_exact_model_leads_to_x0(sampler, steps, parameterization):
    x0, x_T = noise(2, 4, 4, 4, seed=1), noise(2, 4, 4, 4)
    model = KnowsX0(x0, parameterization)
    seen = []
    x = run(sampler(model), steps, x_T, on_step=lambda i, x, pred_x0: seen.append(pred_x0))
    assert len(seen) == steps
    assert all(torch.allclose(pred_x0, x0, atol=2e-4) for pred_x0 in seen)
    if issubclass(sampler, DPMSolverSampler):  # ends at sigma = 0
        assert torch.allclose(x, x0, atol=1e-5)
    else:  # end at alphas_cumprod[0]: a remainder of eps stays, which the exact model keeps constant on its way
        a_T, a_0 = (float(model.alphas_cumprod[t]) for t in (sampler.timesteps(steps)[0], 0))
        eps = (x_T - math.sqrt(a_T) * x0) / math.sqrt(1 - a_T)
        assert torch.allclose(x, math.sqrt(a_0) * x0 + math.sqrt(1 - a_0) * eps, atol=1e-5)


def test_exact_model_leads_to_x0_with_noise():
    x0 = noise(1, 4, 32, 32, seed=1)
    x, intermediates = DDIMSampler(KnowsX0(x0, "eps")).sample(20, eta=1.0)
    assert all(torch.allclose(pred_x0, x0, atol=2e-4) for pred_x0 in intermediates["pred_x0"][1:])
    assert (x - x0).std() < 0.04  # sqrt(1 - alphas_cumprod[0]) = 0.029


def error_midway(sampler, steps):
    """Measure the error of x halfway, before the last step, which is of order 1."""
    x_T, seen = noise(1, 4, 4, 4), []
    run(sampler(UnitGaussianData()), steps, x_T, on_step=lambda i, x, pred_x0: seen.append(x))
    return relative_difference(seen[steps // 2], x_T)


# PLMS combines four eps, but its first steps have fewer and leave an error of order 2.
@pytest.mark.parametrize("sampler, order", [(DDIMSampler, 1), (PLMSSampler, 2), (DPMSolverSampler, 2)])
def test_order_of_convergence(sampler, order):
    coarse, fine = error_midway(sampler, 20), error_midway(sampler, 100)
    assert math.log(coarse / fine, 100 / 20) > order - 0.15
    assert fine < (0.005 if order == 1 else 0.0005)


# --- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timesteps", [leading_timesteps, linspace_timesteps, few_timesteps])
@pytest.mark.parametrize("n", [1, 2, 100, 1000])
def test_every_number_of_timesteps_is_exact(timesteps, n):
    for steps in range(1, n + 1):
        ts = timesteps(steps, n)
        assert len(ts) == steps
        assert all(later < earlier for earlier, later in zip(ts, ts[1:], strict=False))
        assert ts[-1] >= 0 and ts[0] <= n - 1
    assert ts == list(range(n - 1, -1, -1))


def test_leading_timesteps_are_those_of_compvis():
    for steps in [s for s in range(1, 1000) if 1000 % s == 0]:
        assert leading_timesteps(steps) == [t + 1 for t in range(0, 1000, 1000 // steps)][::-1]


def test_few_timesteps_go_through_those_that_were_found():
    assert few_timesteps(4) == [999, 850, 480, 200]
    assert few_timesteps(8)[::2] == few_timesteps(4)
    assert few_timesteps(2) == [999, 480] and few_timesteps(1) == [999]
    assert few_timesteps(101) == linspace_timesteps(101)


@pytest.mark.parametrize("steps", [0, -1, 1001])
@pytest.mark.parametrize("timesteps", [leading_timesteps, linspace_timesteps, few_timesteps])
def test_impossible_numbers_of_steps_are_refused(timesteps, steps):
    with pytest.raises(ValueError, match=f"1 .. 1000 .* got {steps}"):
        timesteps(steps)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_step_is_one_evaluation(sampler, schedule):
    for steps in STEP_COUNTS:
        seen: list[int] = []
        model = ToyModel(betas=make_betas(schedule))
        if schedule == "cosine":
            model.parameterization = "v"
        x = run(sampler(model), steps, noise(1, 1, 2, 2), on_step=lambda i, x, pred_x0, seen=seen: seen.append(i))
        assert len(model.calls) == steps + (sampler is PLMSSampler)
        assert seen == list(range(steps))
        assert torch.isfinite(x).all()


def test_ddim_with_noise_runs_at_every_step_count():
    for steps in STEP_COUNTS:
        model = ToyModel()
        x = run(DDIMSampler(model), steps, noise(1, 1, 2, 2), eta=1.0, seeds=[0])
        assert len(model.calls) == steps and torch.isfinite(x).all()


# --- seeds -----------------------------------------------------------------------------------------------------------


def test_start_noise_of_a_seed_is_the_same_in_every_batch():
    batch = seeded_noise([1, 2, 3, 4], (4, 32, 32))
    assert batch.shape == (4, 4, 32, 32) and batch.dtype == torch.float32 and batch.device.type == "cpu"
    for i, seed in enumerate([1, 2, 3, 4]):
        assert torch.equal(seeded_noise([np.int64(seed)], (4, 32, 32))[0], batch[i])  # type: ignore[list-item]
    assert not torch.allclose(batch[0], batch[1])
    assert abs(batch.mean()) < 0.05 and abs(batch.std() - 1) < 0.05
    with pytest.raises(ValueError, match="seed"):
        seeded_noise([], (4, 32, 32))


@pytest.mark.parametrize("sampler, eta", [*((sampler, 0.0) for sampler in SAMPLERS), (DDIMSampler, 1.0)])
def test_a_seed_gives_the_same_latents_alone_and_in_a_batch(sampler, eta):
    batch, alone = (
        run(sampler(ToyModel()), 10, seeded_noise(seeds, (4, 8, 8)), seeds=seeds, eta=eta)
        for seeds in ([1, 2, 3, 4], [3])
    )
    assert torch.allclose(batch[2:3], alone, atol=1e-5)
    assert not torch.allclose(batch[1:2], alone, atol=0.1)


def test_the_noise_of_steps_is_not_the_start_noise_again():
    x_T = seeded_noise([9], (4, 8, 8))
    (x, pred_x0), *_ = DDIMSampler(KnowsX0(torch.zeros(1, 4, 8, 8), "eps")).trajectory(
        x_T, SamplingSettings(10, eta=1.0), seeds=[9]
    )
    stream = noise_stream([9], (4, 8, 8))
    start, added = (next(stream).flatten() for _ in range(2))
    assert torch.equal(start, x_T.flatten()) and abs(F.cosine_similarity(start, added, dim=0)) < 0.2
    a, a_prev = (float(KnowsX0.alphas_cumprod[t]) for t in (901, 801))
    eps, variance = start / math.sqrt(1 - a), (1 - a_prev) / (1 - a) * (1 - a / a_prev)
    expected = math.sqrt(1 - a_prev - variance) * eps + math.sqrt(variance) * added
    torch.testing.assert_close(x.flatten(), expected)


def test_without_seeds_the_global_generator_decides():
    def draw(seed):
        torch.manual_seed(seed)
        return DDIMSampler(ToyModel()).sample(2, 2, (4, 4, 4), eta=1.0)[0]

    with torch.random.fork_rng(devices=[]):
        assert torch.equal(draw(0), draw(0))
        assert not torch.equal(draw(0), draw(1))


@pytest.mark.parametrize(("eta", "drawn"), [(0.0, False), (0.5, True)])
def test_the_global_generator_is_left_alone_where_no_noise_is_needed(eta, drawn):
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        DDIMSampler(ToyModel()).sample(2, 2, (4, 4, 4), x_T=noise(2, 4, 4, 4), eta=eta)
        assert torch.equal(before, torch.get_rng_state()) != drawn


# --- guidance --------------------------------------------------------------------------------------------------------


@pytest.fixture
def conditioned():
    return {"conditioning": noise(2, 3, 5, seed=1), "unconditional": noise(2, 3, 5, seed=2)}


@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_guidance_extrapolates_from_uncond_to_cond(conditioned, parameterization):
    class Guided(ToyModel):  # guidance spelled out: two calls of the plain model
        def apply_model(self, x, t, c):
            cond, uncond = (super(Guided, self).apply_model(x, t, c) for c in conditioned.values())
            return 3 * cond - 2 * uncond

    x_T = noise(2, 4, 8, 8)
    expected = run(DDIMSampler(Guided(parameterization)), 10, x_T)
    model = ToyModel(parameterization)
    guided = run(DDIMSampler(model), 10, x_T, scale=3.0, **conditioned)
    assert torch.allclose(guided, expected, atol=1e-5)
    assert [size for size, _ in model.calls] == [4] * 10


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_second_evaluation_without_need(conditioned, sampler):
    x_T, model = noise(2, 4, 8, 8), ToyModel()
    at_scale_1 = run(sampler(model), 5, x_T, scale=1.0, **conditioned)
    del conditioned["unconditional"]
    without_uc = run(sampler(model), 5, x_T, scale=3.0, **conditioned)
    assert {size for size, _ in model.calls} == {2}
    assert torch.equal(at_scale_1, without_uc)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_guidance_interval_saves_evaluations(conditioned, sampler):
    model, x_T = ToyModel(), noise(2, 4, 8, 8)
    options = {"scale": 3.0, **conditioned}
    run(sampler(model), 20, x_T, guidance_interval=(0.2, 0.6), **options)
    assert {size for size, _ in model.calls} == {2, 4}
    assert all((size == 4) == (0.2 <= t / 999 <= 0.6) for size, t in model.calls)
    nowhere = run(sampler(ToyModel()), 20, x_T, guidance_interval=(0.0, 0.0), **options)
    unguided = run(sampler(ToyModel()), 20, x_T, conditioning=conditioned["conditioning"])
    assert torch.equal(nowhere, unguided)


@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_rescaled_guidance_has_the_contrast_of_unguided_latents(conditioned, parameterization):
    """Holds for each image and both parameterizations; x_t stays √a x0 + √(1 − a) eps."""
    model, x_T = ToyModel(parameterization), noise(3, 4, 8, 8)
    alphas = model.alphas_cumprod.tolist()
    c, uc = (conditioned[name][:1].expand(3, -1, -1) for name in ("conditioning", "unconditional"))

    def pred_x0(scale: float, phi: float) -> torch.Tensor:
        settings = SamplingSettings(scale=scale, guidance_rescale=phi)
        eps, clean = guided_denoiser(model, alphas, x_T, c, uc, settings)(x_T, 700)
        torch.testing.assert_close(math.sqrt(alphas[700]) * clean + math.sqrt(1 - alphas[700]) * eps, x_T)
        return clean

    unguided, guided, half, whole = pred_x0(1, 0), pred_x0(4, 0), pred_x0(4, 0.5), pred_x0(4, 1)
    contrast = unguided.std(dim=(1, 2, 3))
    assert ((guided.std(dim=(1, 2, 3)) / contrast).log().abs() > 0.01).all()
    torch.testing.assert_close(whole.std(dim=(1, 2, 3)), contrast)
    torch.testing.assert_close(half, (guided + whole) / 2)
    assert not torch.allclose(whole, unguided, atol=1e-2)


def test_one_conditioning_counts_for_all_images():
    c, x_T = noise(1, 3, 5), noise(3, 4, 8, 8)
    one = run(DDIMSampler(ToyModel()), 5, x_T, conditioning=c)
    assert torch.equal(one, run(DDIMSampler(ToyModel()), 5, x_T, conditioning=c.repeat(3, 1, 1)))
    with pytest.raises(ValueError, match="1 image or for all 3"):
        run(DDIMSampler(ToyModel()), 5, x_T, conditioning=noise(2, 3, 5))


# --- precision, options, refusals ------------------------------------------------------------------------------------


def test_states_are_float32_whatever_the_model_computes_in():
    class HalfModel(ToyModel):
        def apply_model(self, x, t, c):
            assert x.dtype == torch.float32
            return super().apply_model(x, t, c).bfloat16()

    x_T = noise(2, 4, 8, 8)
    for sampler in SAMPLERS:
        half = run(sampler(HalfModel("v")), 20, x_T.half())
        assert half.dtype == torch.float32
        assert relative_difference(half, run(sampler(ToyModel("v")), 20, x_T)) < 0.02


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_front_of_compvis_gives_what_run_gives(sampler, conditioned, capsys):
    x_T = noise(2, 4, 4, 4)
    samples, kept = sampler(ToyModel()).sample(
        S=10,
        conditioning=conditioned["conditioning"],
        batch_size=2,
        shape=(4, 4, 4),
        verbose=True,
        x_T=x_T,
        eta=0.0,
        unconditional_guidance_scale=3.0,
        unconditional_conditioning=conditioned["unconditional"],
    )
    assert torch.equal(samples, run(sampler(ToyModel()), 10, x_T, scale=3.0, **conditioned))
    assert [len(kept[name]) for name in ("x_inter", "pred_x0")] == [11, 11]  # x_T and ten steps
    assert torch.equal(kept["x_inter"][0], x_T) and torch.equal(kept["x_inter"][-1], samples)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_unsupported_arguments_are_refused_by_name(sampler):
    with pytest.raises(TypeError, match=r"mask, temperature; allowed: S, batch_size, shape, .*verbose$"):
        sampler(ToyModel()).sample(5, mask=None, temperature=1.0)


@pytest.mark.parametrize("sampler", [PLMSSampler, DPMSolverSampler])
def test_noise_is_refused_where_there_is_none(sampler):
    with pytest.raises(ValueError, match=f"eta must be 0 for {sampler.__name__}.* 0.5"):
        sampler(ToyModel()).sample(5, eta=0.5)
    with pytest.raises(ValueError, match="eta"):
        sampler.verify(SamplingSettings(eta=0.5))
    DDIMSampler.verify(SamplingSettings(eta=0.5))


@pytest.mark.parametrize(
    "name, value",
    [
        *(("steps", value) for value in (0, -3, 2.5, True)),
        *(("scale", value) for value in (-1.0, math.inf, math.nan)),
        *(("eta", value) for value in (-0.1, 1.1, math.nan)),
        *(("guidance_rescale", value) for value in (-0.1, 1.1, math.nan)),
        *(("guidance_interval", value) for value in ((0.5, 0.2), (-0.1, 1.0), (0.0, 1.5), (0.0, math.nan), (0.5,))),
    ],
)
def test_wrong_options_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        replace(SamplingSettings(), **{name: value})


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"S": 1001}, "1 .. 1000"),
        ({"batch_size": 0}, "batch_size"),
        ({"shape": (32, 32)}, "shape"),
        ({"x_T": torch.zeros(2, 4, 32, 32)}, r"x_T .*\[1, 4, 32, 32\], got \[2, 4, 32, 32\]"),
        ({"unconditional_conditioning": torch.zeros(1, 3, 5)}, "without conditioning"),
    ],
)
def test_wrong_values_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DDIMSampler(ToyModel()).sample(**{"S": 5, **kwargs})


def test_trajectory_refuses_before_its_first_step():
    sampler = DDIMSampler(ToyModel())
    with pytest.raises(ValueError, match="one seed for each of the 1"):
        sampler.trajectory(noise(1, 4, 4, 4), SamplingSettings(eta=1.0), seeds=[1, 2])
    with pytest.raises(ValueError, match="x_T"):
        sampler.trajectory(noise(4, 4, 4), SamplingSettings())


def test_strange_models_and_schedules_are_refused():
    with pytest.raises(ValueError, match="'x0'.* eps, v"):
        DDIMSampler(ToyModel("x0"))
    model = ToyModel()
    model.alphas_cumprod[-1] = 0
    with pytest.raises(ValueError, match="alphas_cumprod"):
        DDIMSampler(model)
    with pytest.raises(ValueError, match="'quadratic'; known are linear, cosine"):
        make_betas("quadratic")
    with pytest.raises(ValueError, match="n_timestep"):
        make_betas("linear", 0)
    with pytest.raises(ValueError, match="linear_start"):
        make_betas("linear", linear_start=0.5, linear_end=0.1)
