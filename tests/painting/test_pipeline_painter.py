"""The painter of pipelines: later noise, samplers, prompts that are too long, and images that are none."""

import dataclasses
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ldm.devices import UnavailableError
from painting.painter import PaintingNote
from painting.pipelines.families import FAMILIES
from painting.pipelines.painter import global_generator, later_noise, seed_of
from painting.pipelines.schedulers import SCHEDULERS, name_of
from tests.painting.test_pipelines import draw, painter_of, spec_of

pytestmark = pytest.mark.slow


def start(painter: Any, seed: int = 1) -> torch.Tensor:
    return draw(painter, torch.Generator().manual_seed(seed))


def test_the_seed_is_every_bit_of_x_T():
    x_T = torch.randn(4, 8, 8)
    other = x_T.clone()
    other[3, 7, 7] = torch.nextafter(other[3, 7, 7], torch.tensor(9.0))
    assert seed_of(x_T) == seed_of(x_T.clone()) != seed_of(other)
    assert 0 <= seed_of(x_T) < 2**63
    assert torch.equal(torch.randn(3, generator=later_noise(x_T)), torch.randn(3, generator=later_noise(x_T)))


def test_the_global_generator_is_lent_and_given_back():
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    with global_generator(7):
        inside = torch.randn(4)
    assert torch.equal(torch.randn(4), expected)
    torch.manual_seed(7)
    assert torch.equal(inside, torch.randn(4))


def test_the_generator_of_a_mac_is_given_back(monkeypatch):
    """Stand-ins take the place of Apple's GPU: seeding all generators seeds that one, too."""
    events: list[Any] = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: "as it was")
    monkeypatch.setattr(torch.mps, "set_rng_state", events.append)
    monkeypatch.setattr(torch.mps, "manual_seed", events.append)
    with pytest.raises(KeyError), global_generator(7):
        raise KeyError
    assert events == [7, "as it was"]


@pytest.mark.parametrize("name, sampler", [
    ("StableDiffusionPipeline", "euler_a"), ("StableDiffusionPipeline", "lcm"), ("StableDiffusion3Pipeline", "lcm"),
])  # fmt: skip
def test_later_noise_is_the_voices(name, sampler):
    """It is the same whatever was drawn before, and another one for another voice, alone or in a batch."""
    painter = painter_of(name)
    spec = spec_of(painter, sampler=sampler, steps=3)
    both = torch.cat([start(painter), start(painter, 2)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        alone = [painter.paint([spec], x_T[None])[0].astype(int) for x_T in both]
        torch.manual_seed(2)
        together = painter.paint([spec, spec], both)
    assert np.abs(np.stack(alone) - together).max() <= 2
    assert np.abs(alone[0] - alone[1]).mean() > 3


def test_a_sampler_that_forgets_the_voice_is_named_once():
    painter = painter_of("StableDiffusion3Pipeline")
    spec = spec_of(painter, sampler="lcm", steps=2)
    with pytest.warns(PaintingNote, match="with the sampler lcm this kind of model forgets x_T in its first step"):
        painter.paint([spec], start(painter))
    with warnings.catch_warnings():
        warnings.simplefilter("error", PaintingNote)
        painter.paint([spec], start(painter))
        painter.paint([spec_of(painter)], start(painter))


def test_a_flow_model_that_was_saved_with_an_sde_gets_an_ode():
    painter = painter_of("StableDiffusion3Pipeline")
    painter._own = type(painter._own).from_config(painter._own.config, stochastic_sampling=True)
    assert painter._scheduler(spec_of(painter)).config.stochastic_sampling is False


@pytest.mark.parametrize("sampler", FAMILIES["StableDiffusionPipeline"].samplers)
def test_one_step_begins_at_pure_noise(sampler):
    painter = painter_of("StableDiffusionPipeline")
    scheduler = painter._scheduler(spec_of(painter, sampler=sampler, steps=1))
    scheduler.set_timesteps(1)
    assert scheduler.timesteps[0] > 990


def test_every_scheduler_has_its_name_and_exists():
    import diffusers

    for name, entry in SCHEDULERS.items():
        for flow, kind in ((False, entry.diffusion), (True, entry.flow)):
            if kind:
                assert hasattr(diffusers, kind)
                assert name_of(kind, entry.config, flow) == name
    assert name_of("SomethingElse", {}, False) is None


@pytest.mark.parametrize("name, limit", [("StableDiffusionPipeline", 75), ("FluxPipeline", 510)])
def test_the_end_of_a_prompt_that_is_not_read_is_named_in_whole_words(name, limit):
    """The tokens of the tiny tokenizers are bytes, between two others."""
    painter = painter_of(name)
    prompt = "a" * (limit - 3) + " red cat and dogs"
    with pytest.warns(PaintingNote, match='which leaves out its end: "red cat and dogs"'):
        painter.paint([dataclasses.replace(spec_of(painter), prompt=prompt)], start(painter))
    with warnings.catch_warnings():
        warnings.simplefilter("error", PaintingNote)
        painter.paint([dataclasses.replace(spec_of(painter), prompt=prompt)], start(painter))  # said once
        painter.paint([dataclasses.replace(spec_of(painter), prompt="a" * limit)], start(painter))


def test_nan_is_no_image(monkeypatch):
    painter = painter_of("StableDiffusionPipeline")
    loaded: list[str] = []
    pipeline = painter.pipeline

    def load(precision: str) -> Any:
        loaded.append(precision)
        return pipeline

    painter._load = load
    monkeypatch.setattr(painter, "_run", lambda *_: (np.full((1, 64, 96, 3), np.nan),))
    with pytest.raises(ValueError, match="no image came out, only NaN"):
        painter.paint([spec_of(painter)], start(painter))
    assert not loaded
    painter.precision = "bf16"
    with pytest.warns(UserWarning, match="bf16 gave no image; again in fp32"), pytest.raises(ValueError):
        painter.paint([spec_of(painter)], start(painter))
    assert loaded == ["fp32"] and painter.precision == "fp32"
    with pytest.raises(ValueError, match="the start noise has elements of nan"):
        painter.paint([spec_of(painter)], start(painter) * torch.nan)


def test_a_painter_stays_usable_if_there_is_no_memory_for_float32(monkeypatch):
    painter = painter_of("StableDiffusionPipeline")
    painter.precision, pipeline = "bf16", painter.pipeline

    def load(precision: str) -> Any:
        if precision == "fp32":
            raise RuntimeError("out of memory")
        return pipeline

    painter._load = load
    with monkeypatch.context() as patch:
        patch.setattr(painter, "_run", lambda *_: (np.full((1, 64, 96, 3), np.nan),))
        with pytest.warns(UserWarning), pytest.raises(RuntimeError, match="out of memory"):
            painter.paint([spec_of(painter)], start(painter))
    assert painter.precision == "bf16"
    painter.precision = "fp32"  # as the tiny weights are
    assert painter.paint([spec_of(painter)], start(painter)).std() > 5


def test_a_blackened_image_is_said(monkeypatch):
    painter = painter_of("StableDiffusionPipeline")

    class Output(SimpleNamespace):
        def __getitem__(self, _: int) -> np.ndarray:
            return np.zeros((1, 64, 96, 3))

    monkeypatch.setattr(painter, "_run", lambda *_: Output(nsfw_content_detected=[True]))
    with pytest.warns(PaintingNote, match="the safety checker of this model blackened an image"):
        painter.paint([spec_of(painter)], start(painter))


@pytest.mark.parametrize("changes, words", [
    ({"sampler": "tcd"}, "FLUX.1 has no sampler 'tcd'"), ({"negative_prompt": "x"}, "has no negative_prompt 'x'"),
    ({"eta": 0.5}, "has no eta 0.5"), ({"guidance_interval": (0.0, 0.5)}, "has no guidance_interval"),
])  # fmt: skip
def test_settings_that_a_family_lacks_are_refused_from_python_too(changes, words):
    painter = painter_of("FluxPipeline")
    with pytest.raises(ValueError, match=words):
        painter.paint([spec_of(painter, **changes)], start(painter))
    with pytest.raises(ValueError, match=words):  # whichever image of a batch asks for it
        painter.paint([spec_of(painter), spec_of(painter, **changes)], torch.cat([start(painter)] * 2))


@pytest.mark.parametrize("name, height, width, words", [
    ("FluxPipeline", 64, 72, "needs multiples of 16, for instance 64 or 80"),
    ("HiDreamImagePipeline", 64, 128, "has images of one area only, here 32×80"),
    ("Kandinsky5T2IPipeline", 64, 64, "has images of 64×128 .height×width. only"),
    ("KandinskyV22CombinedPipeline", 64, 96, "needs multiples of 64"),
    ("StableDiffusionPipeline", 60, 64, "height 60: Stable Diffusion 1 and 2 needs multiples of 8"),
])  # fmt: skip
def test_sizes_that_would_come_out_otherwise_are_refused(name, height, width, words):
    with pytest.raises(UnavailableError, match=words):
        painter_of(name).latent_shape(height, width)


def test_negative_prompts_count():
    painter = painter_of("StableDiffusionPipeline")
    spec, x_T = spec_of(painter), start(painter)
    without, with_one = painter.paint([spec], x_T), painter.paint([spec_of(painter, negative_prompt="dogs")], x_T)
    assert not np.array_equal(without, with_one)
