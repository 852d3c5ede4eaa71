"""A latent diffusion model as a painter: what it warns of, and images that are none."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import config
import txt2img
from ldm.models.diffusion.ddpm import LatentDiffusion
from painting import ldm_painter
from painting.image_spec import ImageSpec
from painting.ldm_painter import LatentDiffusionPainter, is_spoiled
from painting.painter import PaintingNote, Step, Transition
from tests.ldm.tiny_model import save_model, weights_of

SPEC = ImageSpec("a golden spiral", steps=2, height=64, width=64, scale=1, precision="fp32")
NOISE = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
KERNEL = "model.diffusion_model.input_blocks.0.0.weight"
LAST_KERNEL = "first_stage_model.decoder.6.weight"


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return weights_of()


@pytest.fixture(scope="module")
def painter(tmp_path_factory, weights) -> LatentDiffusionPainter:
    folder = tmp_path_factory.mktemp("model")
    return LatentDiffusionPainter(save_model(folder, weights), precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def builtin() -> LatentDiffusionPainter:
    """Return the built-in model, which has a prior."""
    return LatentDiffusionPainter(precision="fp32", device="cpu")


def broken(folder: Path, weights: dict[str, Tensor], damage: str) -> Path:
    tensors = dict(weights)
    if damage in ("nan", "huge"):
        name = KERNEL if damage == "nan" else LAST_KERNEL
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[0] = torch.nan if damage == "nan" else 1e30
    else:
        for name, tensor in tensors.items():
            if name.startswith("first_stage_model.decoder") and (damage == "zeros" or tensor.ndim > 1):
                tensors[name] = torch.zeros_like(tensor)
    return save_model(folder, tensors)


# --- broken models ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "damage, words",
    [
        ("nan", rf"hold NaN or infinite numbers .{KERNEL}."),
        ("huge", rf"hold absurdly large numbers .{LAST_KERNEL}."),
        ("zeros", "hold nothing but zeros .first_stage_model.decoder.0.weight"),
        ("zero kernels", "hold nothing but zeros .first_stage_model.decoder.0.weight"),  # a tile of biases, repeated
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_broken_model_makes_no_image_and_is_named(tmp_path, weights, damage, words, precision):
    path = broken(tmp_path, weights, damage)
    painter = LatentDiffusionPainter(path, precision=precision, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no second try in fp32, which would be as broken
        with pytest.raises(ValueError, match=f"{path} is broken.*{words}") as caught:
            painter.paint([SPEC], NOISE)
    assert "\n" not in str(caught.value) and "--" not in str(caught.value)


def test_the_script_writes_nothing_then(tmp_path, weights):
    path = broken(tmp_path, weights, "zeros")
    sizes = ["--H=64", "--W=64", "--steps=2", "--precision=full", "--device=cpu"]
    with pytest.raises(ValueError, match="is broken"):
        txt2img.main([f"--ckpt={path}", f"--outdir={tmp_path / 'out'}", "--prompt=a golden spiral", *sizes])
    assert not list(tmp_path.rglob("*.png"))


def test_nan_ends_the_sampling_after_a_step(painter, monkeypatch):
    model = LatentDiffusion.apply_model
    monkeypatch.setattr(LatentDiffusion, "apply_model", lambda *args, **more: model(*args, **more) * torch.nan)
    steps: list[int] = []
    with pytest.raises(ValueError, match="only NaN or absurdly large numbers: no weight in .* is NaN or absurd"):
        painter.paint([SPEC], NOISE, lambda step: steps.append(step.number))
    assert steps == []  # nor is a preview made of NaN


def test_a_prior_of_nan_is_not_shown(builtin, monkeypatch):
    monkeypatch.setattr(LatentDiffusion, "prior", lambda self, c, x_T: torch.full_like(x_T, torch.nan))
    steps: list[int] = []
    with pytest.raises(ValueError, match="only NaN"):
        builtin.paint([SPEC], NOISE, lambda step: steps.append(step.number))
    assert steps == []


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_the_first_preview_is_of_the_priors(builtin, scale):
    """They are told once, before the first step, and cost no bit of the images."""
    specs = [dataclasses.replace(SPEC, prompt=prompt, scale=scale) for prompt in ("a golden spiral", "blue rings")]
    noise = torch.cat([NOISE, NOISE.flip(3)])
    told: list[Step] = []
    shown: list[np.ndarray] = []

    def note(step: Step) -> None:
        told.append(step)
        shown.append(step.preview())

    images = builtin.paint(specs, noise, note)
    assert [(step.number, step.total, step.sampled) for step in told] == [(0, 2, False), (1, 2, True), (2, 2, True)]
    assert np.array_equal(images, builtin.paint(specs, noise))
    priors = torch.from_numpy(builtin.outlines([Transition((spec,), (1.0,)) for spec in specs], noise))
    assert np.array_equal(shown[0], builtin._preview(priors)) and not np.array_equal(*shown[0])


@pytest.mark.parametrize("value", [1e30, float("nan"), float("inf"), -2e4])
def test_absurd_start_noise_is_refused(painter, value):
    noise = NOISE.clone()
    noise[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="the start noise has elements of"):
        painter.paint([SPEC], noise)


def test_absurd_latents_are_refused(tmp_path):
    torch.save(torch.full((1, 4, 32, 32), 1e30), tmp_path / "latent.pt")
    with pytest.raises(ValueError, match=r"latent.pt holds elements of 1e\+30, and latents of a voice stay below 100"):
        txt2img.main([f"--init_latents={tmp_path / 'latent.pt'}", f"--outdir={tmp_path}", "--steps=1"])
    assert not list(tmp_path.rglob("*.png"))


# --- one colour ------------------------------------------------------------------------------------------------------
def decoding(image: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LatentDiffusion, "decode_first_stage", lambda self, z: image[None])


VARIED = 0.01 * torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("image", [torch.zeros(3, 64, 64), torch.full((3, 64, 64), -1.0), 1e4 * (1 + VARIED)])
def test_an_image_of_one_colour_is_refused(painter, image, monkeypatch):
    decoding(image, monkeypatch)
    with pytest.raises(ValueError, match="no image came out, only one single colour"):
        painter.paint([SPEC], NOISE)


def test_black_that_a_prompt_asked_for_is_an_image_with_a_warning(painter, monkeypatch):
    decoding(-1.2 - VARIED, monkeypatch)
    with pytest.warns(PaintingNote, match="one single colour"):
        assert (painter.paint([SPEC], NOISE) == 0).all()


def test_an_image_that_is_nearly_flat_is_an_image(painter, monkeypatch):
    """One pixel that differs by one level is enough."""
    image = torch.zeros(3, 64, 64)
    image[0, 40, 40] = 0.01
    assert not is_spoiled(image) and is_spoiled(torch.zeros(3, 64, 64))
    decoding(image, monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert painter.paint([SPEC], NOISE).shape == (1, 64, 64, 3)


def test_a_sound_model_paints_without_a_word(painter):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = painter.paint([SPEC], NOISE), painter.paint([SPEC], NOISE)
    np.testing.assert_array_equal(first, second)


def test_a_painter_stays_usable_if_there_is_no_memory_for_float32(tmp_path, weights, monkeypatch):
    painter = LatentDiffusionPainter(save_model(tmp_path, weights), precision="bf16", device="cpu")
    whole = ldm_painter.load_model

    def load(*arguments: Any, dtype: torch.dtype, **others: Any) -> LatentDiffusion:
        if dtype == torch.float32:
            raise RuntimeError("out of memory")
        return whole(*arguments, dtype=dtype, **others)

    monkeypatch.setattr(ldm_painter, "load_model", load)
    with monkeypatch.context() as patch:
        patch.setattr(painter, "_sample", lambda *_: torch.full((1, 3, 64, 64), torch.nan))
        with pytest.warns(UserWarning, match="again in fp32"), pytest.raises(RuntimeError, match="out of memory"):
            painter.paint([SPEC], NOISE)
    assert painter.precision == "bf16"
    assert painter.paint([SPEC], NOISE).std() > 1


# --- prompts ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("prompt", ["", " \t"])
def test_an_empty_prompt_is_named_once(tmp_path, weights, prompt):
    painter = LatentDiffusionPainter(save_model(tmp_path, weights), precision="fp32", device="cpu")
    with pytest.warns(PaintingNote, match="the prompt is empty: 'abstract art' is used"):
        painter.paint([dataclasses.replace(SPEC, prompt=prompt)], NOISE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        painter.paint([dataclasses.replace(SPEC, prompt=prompt)], NOISE)


def test_the_end_of_a_prompt_that_is_left_out_is_named_once(tmp_path, weights):
    painter = LatentDiffusionPainter(save_model(tmp_path, weights), precision="fp32", device="cpu")
    spec = ImageSpec("a golden spiral on purple blue purple", steps=1, height=64, width=64, scale=1)
    with pytest.warns(PaintingNote, match="leaves out its end: purple, blue$") as caught:
        painter.paint([spec], NOISE)
    assert len(caught) == 1
    short = painter.paint([ImageSpec("a golden spiral on", steps=1, height=64, width=64, scale=1)], NOISE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(painter.paint([spec], NOISE), short)
    other = ImageSpec("a", negative_prompt="on a golden spiral green", steps=1, height=64, width=64)
    with pytest.warns(PaintingNote, match="leaves out its end: green$"):
        painter.paint([other], NOISE)


@pytest.mark.parametrize(
    ("height", "width", "told"), [(64, 128, False), (128, 64, False), (64, 192, True), (128, 128, True)]
)
def test_a_size_that_the_model_has_not_learnt_is_named_once(painter, monkeypatch, height, width, told):
    monkeypatch.setattr(painter.model, "latent_shape", (4, 8, 8))
    monkeypatch.setattr(painter, "_warned", set())
    spec = dataclasses.replace(SPEC, height=height, width=width)
    noise = torch.randn(1, 4, height // 8, width // 8)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            painter.paint([spec], noise)
    sizes = [str(one.message) for one in caught if "trained at 64x64" in str(one.message)]
    assert [f"at {width}x{height}" in note and "up to 128" in note for note in sizes] == [True] * told


def test_the_built_in_model_is_known_by_any_path(monkeypatch):
    monkeypatch.chdir(config.REPO_DIR)
    relative = config.BUILTIN_MODEL_WEIGHTS.relative_to(config.REPO_DIR)
    assert LatentDiffusionPainter(relative, precision="fp32", device="cpu").latent_shape(512, 512) == (4, 32, 32)
