"""Every row of the table of families, on a tiny pipeline: x_T arrives exactly once, and exactly as loud.

If x_T is what the pipeline's own generator would have drawn, the image must be the one that the pipeline makes alone,
bit for bit.
"""

import dataclasses
import inspect
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

import config
from audio.gaussianity import complaints, examine
from audio.initial_noise import Voices, initial_noise
from audio.provenance import read_heard
from audio.whitening import WHITENING_NAME, Whitening
from painting import preview
from painting.image_spec import ImageSpec
from painting.pipelines import painter as pipeline_painter
from painting.pipelines.families import DIFFUSION, FAMILIES, ChannelsLast, Family
from painting.pipelines.files import factor_of
from painting.pipelines.painter import DiffusersPainter
from tests.painting import tiny_pipelines

SEED = 5
PROMPT = "a red cat"
LONG_RUNS = ("StableDiffusionPipeline", "FluxPipeline", "LatentConsistencyModelPipeline")
CASES = [
    *((name, steps) for name, row in FAMILIES.items() for steps in (1, 2) if steps >= row.least_steps),
    *((name, 20) for name in LONG_RUNS),
]


# "euler" is a flow family's own, which the other tests use; the samplers of U-Nets are the same, and tried once
SAMPLERS = [
    (name, sampler)
    for name, row in FAMILIES.items()
    for sampler in row.samplers
    if not (row.flow and sampler == "euler") and (row.samplers != DIFFUSION or name == "StableDiffusionPipeline")
]


def size_of(family: Family) -> dict[str, int]:
    """Return a size that the tiny pipeline has, not square where that can be."""
    sides = {"StableCascadeCombinedPipeline": (128, 128), "HiDreamImagePipeline": (64, 64)}
    wide = {"Kandinsky": 128, "Sana": 96}  # multiples of 64, and of 32
    usual = (64, next((width for name, width in wide.items() if name in family.text), 80))
    height, width = sides.get(family.pipeline, usual)
    return {"height": height, "width": width}


def painter_of(name: str) -> DiffusersPainter:
    """Return a painter of the tiny pipeline of a class."""
    pipeline, family = tiny_pipelines.make_pipeline(name), FAMILIES[name]
    if family.sizes:  # the tiny pipeline paints the last of its sizes only
        family = dataclasses.replace(family, sizes=((64, 128),))
        pipeline.resolutions = [(128, 64)]
    elif "max_sequence_length" in inspect.signature(pipeline.__call__).parameters:  # prompts are filled up to it
        family = dataclasses.replace(family, arguments={**family.arguments, "max_sequence_length": 64})
    return DiffusersPainter(lambda _: pipeline, family)


def spec_of(painter: DiffusersPainter, **changes: Any) -> ImageSpec:
    family = painter.family
    settings = {"steps": max(2, family.least_steps), "scale": family.scale, "sampler": painter._own_name}
    return ImageSpec(PROMPT, **{**settings, **size_of(family), **changes})


def draw(painter: DiffusersPainter, generator: torch.Generator) -> Tensor:
    """Return the x_T that the pipeline would draw, which lies in memory as the pipeline has it."""
    family = painter.family
    c, h, w = painter.latent_shape(**size_of(family))
    if isinstance(family.layout, ChannelsLast):
        return family.layout.x_T(torch.randn(1, 1, h, w, c, generator=generator), (c, h, w))
    return torch.randn(1, c, h, w, generator=generator)


def painted_alone(painter: DiffusersPainter, spec: ImageSpec, generator: torch.Generator) -> np.ndarray:
    """Return the image of the pipeline without x_T: it draws for itself."""
    family, pipeline = painter.family, painter.pipeline
    size = {"height": spec.height, "width": spec.width}
    sampling = {"num_inference_steps": spec.steps, "generator": generator, "output_type": "pil"}
    if family.stage == "prior_pipe":
        images = pipeline([PROMPT], **size, prior_num_inference_steps=spec.steps, prior_guidance_scale=spec.scale,
            num_inference_steps=10, decoder_guidance_scale=0.0, generator=generator)[0]  # fmt: skip
        return np.stack([np.asarray(image) for image in images])
    if family.stage == "decoder_pipe":
        # the image's noise is drawn first here, because the painter has it when the prior begins
        latents = draw(painter, generator)
        before = pipeline.prior_pipe([PROMPT], generator=generator)
        pipeline.decoder_pipe.scheduler = painter._scheduler(spec)
        images = pipeline.decoder_pipe(before.image_embeds, before.negative_image_embeds, **size, latents=latents,
            guidance_scale=spec.scale, **sampling)[0]  # fmt: skip
        return np.stack([np.asarray(image) for image in images])
    pipeline.scheduler = painter._scheduler(spec)
    arguments = dict(family.arguments) | (dict(family.other_steps) if spec.steps != family.steps else {})
    if family.guidance:
        arguments[family.guidance] = spec.scale
    if family.no_negative is not None:
        arguments["negative_prompt"] = family.no_negative
    images = pipeline(prompt=PROMPT, **size, **sampling, **arguments)[0]
    return np.stack([np.asarray(image) for image in images])


def painted_twice(painter: DiffusersPainter, spec: ImageSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return the image of x_T, and that of the pipeline alone, whose generator draws the same x_T."""
    ours, theirs = torch.Generator().manual_seed(SEED), torch.Generator().manual_seed(SEED)
    x_T = draw(painter, ours)
    expected_x_T = x_T.clone()
    with (
        mock.patch.object(pipeline_painter, "later_noise", lambda _: ours),  # goes on where the pipeline's does
        mock.patch.object(pipeline_painter, "seed_of", lambda _: SEED),
    ):
        image = painter.paint([spec], x_T)
    assert torch.equal(x_T, expected_x_T)
    torch.manual_seed(SEED)  # of later noise that no generator is handed for
    return image, painted_alone(painter, spec, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name, steps", CASES)
def test_the_image_is_the_same_as_from_the_pipelines_own_draw(name, steps):
    painter = painter_of(name)
    spec = spec_of(painter, steps=steps)
    image, alone = painted_twice(painter, spec)
    assert np.array_equal(image, alone)
    assert image.shape == (1, spec.height, spec.width, 3) and image.std() > 5


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_an_image_depends_on_its_voice_alone(name, monkeypatch):
    """Neither the batch, nor what was drawn before, nor a preview changes it."""
    monkeypatch.setattr(preview, "EXAMPLES", 2)  # enough for its shape, which is all that counts here
    monkeypatch.setattr(preview, "EXAMPLE_SIZE", 64)
    painter = painter_of(name)
    spec, generator = spec_of(painter), torch.Generator().manual_seed(SEED)
    two = torch.cat([draw(painter, generator), draw(painter, generator)])
    state = torch.random.get_rng_state()
    seen, shown = [], []

    def on_step(step: Any) -> None:
        seen.append((step.number, step.total))
        shown.append(step.preview())

    together = painter.paint([spec, spec], two)
    alone = painter.paint([spec], two[1:], on_step)
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is given back as it was
    assert np.abs(alone[0].astype(int) - together[1]).max() <= 2  # sums are rounded in another order
    assert np.abs(together[0].astype(int) - together[1]).mean() > 3
    assert seen == [(1, 2), (2, 2)]
    assert {image.shape for image in shown} == {(1, *two.shape[2:], 3)}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_row_says_what_the_pipeline_takes(name):
    """Defaults and arguments are those of the signature of the pipeline's own `__call__`."""
    import diffusers

    family = FAMILIES[name]
    takes = inspect.signature(getattr(diffusers, name).__call__).parameters
    if name in ("KolorsPipeline", "KandinskyV22CombinedPipeline", "StableCascadeCombinedPipeline"):
        return  # wrapped, or of two stages
    assert family.steps == takes["num_inference_steps"].default
    assert not family.guidance or family.scale == takes[family.guidance].default
    # FLUX takes one, but its scale is not that of guidance, and without a second pass the prompt has no effect
    assert family.negative == ("negative_prompt" in takes) or name == "FluxPipeline"
    assert {*family.takes, *family.arguments, *family.other_steps} <= takes.keys()
    for setting in ("eta", "guidance_rescale"):
        used = setting in takes and name not in ETA_WITHOUT_EFFECT
        assert setting not in family.takes or used


ETA_WITHOUT_EFFECT = ("PixArtSigmaPipeline", "PixArtAlphaPipeline", "SanaPipeline", "SanaSprintPipeline",
    "CogView3PlusPipeline")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name, sampler", SAMPLERS)
def test_each_sampler_that_is_offered_paints(name, sampler):
    painter = painter_of(name)
    spec = spec_of(painter, sampler=sampler)
    generator = torch.Generator().manual_seed(SEED)
    x_T = torch.cat([draw(painter, generator), draw(painter, generator)])
    images = painter.paint([spec] * 2, x_T)
    assert np.abs(images[0].astype(int) - images[1]).mean() > 3
    assert np.abs(painter.paint([spec], x_T[1:])[0].astype(int) - images[1]).max() <= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_sizes_are_known_before_a_pipeline_is_loaded(name):
    """The configs in a folder tell how many pixels a latent pixel has."""
    painter = painter_of(name)
    parts, family = painter.pipeline.components, painter.family
    actual, autoencoder = int(painter._value(family.factor)), parts.get("vae") or parts.get("movq")
    if not family.factor.isdigit():
        factor = factor_of(autoencoder.config)
        assert factor and actual == factor * (2 if family.of_tokens else 1)


def test_every_family_has_a_tiny_pipeline():
    assert tiny_pipelines.BUILDERS.keys() == FAMILIES.keys()
    assert len(FAMILIES) >= 30


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    a, b = one.ravel().astype(np.float64), other.ravel().astype(np.float64)
    return float(a @ b / np.sqrt(a @ a * (b @ b)))


# x_T of 1024×1024 pixels: Stable Cascade, FLUX and SD 3, SDXL, Sana, FLUX.2, HunyuanImage of 2048; PRX in pixels of 256
SHAPES = [(16, 24, 24), (16, 128, 128), (4, 128, 128), (32, 32, 32), (128, 64, 64), (64, 64, 64), (3, 256, 256)]


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_a_voice_is_gaussian_noise_at_the_shapes_of_the_families(shape, voices):
    latents = torch.load(voices, weights_only=True).numpy()
    whitening = Whitening.load(config.BUILTIN_CALIBRATION_DIR / WHITENING_NAME)
    heard = read_heard(voices, len(latents))
    parts = [(Voices(latents, whitening, heard=heard), 0, 1.0)]
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(SEED)).numpy()
    x_T = initial_noise(parts, noise, 0.9)
    shaped = initial_noise(parts, noise, 0.9, layout_strength=0.5)  # every channel gets the shape of the sound
    assert x_T.shape == shaped.shape == shape and cosine(x_T, shaped) < 0.9999
    assert not complaints(examine(x_T)), complaints(examine(x_T))
    assert examine(shaped).gaussian
    # two voices are as far apart as at 256×256 pixels, so each is found again among others as well as there; only the
    # named numbers, which have less than a hundredth of the variance, have another share of it
    apart = [cosine(*whitening.whiten(latents, size, heard)) for size in (shape, (4, 32, 32))]
    assert abs(apart[0] - apart[1]) < 5e-3
