"""Images of the built-in model by txt2img.py: what changes them, and what does not."""

import json
import pkgutil
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import config
import txt2img
from audio.initial_noise import cosine_basis, sound_shape
from audio.provenance import read_names
from audio.whitening import Whitening
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.models.diffusion.sampling import seeded_noise
from ldm.modules.encoders.modules import WordEmbedder
from painting.image_spec import SAMPLERS
from painting.model_files import ModelFiles
from painting.options import guidance_rescale_of, parse_options
from tests.programs import TINY, paint, run_main


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean absolute difference of two images, in levels of 256."""
    return float(np.abs(one.astype(int) - other).mean())


@pytest.fixture
def apart(voices) -> list[Path]:
    """Two voices in a file each, as two people bring them."""
    return [voices.with_name("en.pt"), voices.with_name("it.pt")]


def test_same_command_same_bytes_and_nothing_is_overwritten(voices, tmp_path):
    """In one process; tests/test_live_workflow.py compares with another."""
    command = ("txt2img.py", "--init_latents", voices, "--steps", 2)
    first, second = (run_main(*command, data=tmp_path) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    samples = tmp_path / "outputs" / "txt2img-samples" / "samples"
    names = [f"subject_000_sample_a-psychedelic-visualization-of-a-voice_{i:04d}.png" for i in range(2)]
    assert sorted(path.name for path in samples.iterdir()) == names
    assert (samples / names[0]).read_bytes() == (samples / names[1]).read_bytes()
    for result, name in zip((first, second), names, strict=True):
        assert f"image: {samples / name}" in result.stdout
    assert Image.open(samples / names[0]).size == (256, 256)


# --- what changes an image -------------------------------------------------------------------------------------------
def test_another_voice_seed_or_prompt_gives_another_image(voices, tmp_path):
    from_voice = ["--init_latents", voices, *TINY]
    variants: dict[str, Sequence[object]] = {
        "one": from_voice,
        "voice": [*from_voice, "--subject_idx", 1],
        "seed": [*from_voice, "--seed", 43],
        "prompt": [*from_voice, "--prompt", "calm blue and turquoise waves"],
        "raw": ["--init_latents", voices, "--x_T", "raw"],
        "noise": TINY,
        "sampler": [*from_voice, "--plms"],
        "scale": [*from_voice, "--scale", 1],
    }
    images = {name: paint(tmp_path / name, *arguments)[0] for name, arguments in variants.items()}
    for name, image in images.items():
        assert image.std() > 5, f"{name} is flat"
        if name not in ("one", "raw"):  # raw latents make images of 256×256 only
            assert distance(image, images["one"]) > 2, f"{name} changes nothing"
    assert distance(images["raw"][::4, ::4], images["one"]) > 2


@pytest.mark.slow
def test_voice_outweighs_the_seed(voices, tmp_path, monkeypatch):
    """Without a prompt, and so without shapes to choose, another seed changes less than another voice."""
    monkeypatch.setattr(WordEmbedder, "fallback_prompt", "")
    from_voice = ["--init_latents", voices, "--prompt", ""]
    one = paint(tmp_path / "one", *from_voice)[0]
    seed = paint(tmp_path / "seed", *from_voice, "--seed", 43)[0]
    voice = paint(tmp_path / "voice", *from_voice, "--subject_idx", 1)[0]
    assert distance(seed, one) < 0.8 * distance(voice, one)


@pytest.mark.slow
def test_a_batch_holds_the_images_of_its_seeds(voices, tmp_path):
    options = ["--init_latents", voices, "--precision", "full", *TINY]
    batch = paint(tmp_path / "batch", *options, "--n_samples", 2, "--n_iter", 2)
    assert len(batch) == 4
    assert Image.open(tmp_path / "batch" / "grid_0000.png").size == (128, 128)
    for i, image in enumerate(batch):
        alone = paint(tmp_path / str(i), *options, "--seed", 42 + i)[0]
        assert distance(image, alone) < 1, "to within rounding"


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 3])
def test_as_many_steps_as_asked_for(sampler, steps, tmp_path, monkeypatch):
    made: list[Any] = []
    cls = pkgutil.resolve_name(SAMPLERS[sampler].target)
    loop = cls._loop

    def counted(*arguments: Any) -> Iterator[Any]:
        for step in loop(*arguments):
            made.append(step)
            yield step

    monkeypatch.setattr(cls, "_loop", counted)
    paint(tmp_path, "--sampler", sampler, "--steps", steps, *TINY)
    assert len(made) == steps


def test_other_sizes(tmp_path):
    assert paint(tmp_path, "--H", 64, "--W", 192)[0].shape == (64, 192, 3)


@pytest.mark.slow
def test_negative_prompt_and_guidance_interval(tmp_path):
    one = paint(tmp_path / "one", *TINY)[0]
    changes: dict[str, list[object]] = {
        "negative": ["--negative_prompt", "purple"],
        "interval": ["--guidance_interval", 0, 0.4],
        "rescale": ["--guidance_rescale", 0],
    }
    for name, arguments in changes.items():
        assert distance(paint(tmp_path / name, *TINY, *arguments)[0], one) > 0.5, name
    never = paint(tmp_path / "never", *TINY, "--guidance_interval", 0, 0)[0]
    np.testing.assert_array_equal(never, paint(tmp_path / "unguided", *TINY, "--scale", 1)[0])


@pytest.mark.parametrize(
    ("arguments", "phi"),
    [
        ([], config.BUILTIN_RESCALE),
        (["--model", "chladni"], config.BUILTIN_RESCALE),
        (["--model", "another"], 0.0),
        (["--ckpt", __file__], 0.0),
        (["--ckpt", config.MODELS_DIR / "calibration" / ".." / "chladni" / "model.safetensors"], 1.0),
        (["--guidance_rescale", "0.2"], 0.2),
    ],
)
def test_guidance_is_as_the_model_needs_it(arguments, phi, tmp_path, monkeypatch):
    (tmp_path / "another").mkdir()
    (tmp_path / "chladni").symlink_to(config.BUILTIN_MODEL_WEIGHTS.parent)
    monkeypatch.setattr(config, "MODELS_DIR", tmp_path)
    assert guidance_rescale_of(parse_options(None, [*map(str, arguments)])) == phi


def test_naming_the_built_in_models_file_changes_nothing(tmp_path):
    (tmp_path / "link").symlink_to(config.BUILTIN_MODEL_WEIGHTS.parent)
    images = []
    for name, model in (("default", []), ("named", ["--ckpt", tmp_path / "link" / "model.safetensors"])):
        assert txt2img.main([str(word) for word in ["--outdir", tmp_path / name, "--skip_grid", *TINY, *model]]) == 0
        images += [path.read_bytes() for path in (tmp_path / name / "samples").iterdir()]  # with the record of the run
    assert len(images) == 2 and images[0] == images[1]


# --- voices ----------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_walk_starts_and_ends_at_the_voices_and_is_an_animation(apart, tmp_path, capsys):
    walked = paint(tmp_path / "walk", *TINY, "--walk", *apart, "--frames", 3, "--batch_size", 1)
    assert len(walked) == 3
    for frame, path in ((0, apart[0]), (-1, apart[1])):
        alone = paint(tmp_path / str(frame), *TINY, "--init_latents", path)[0]
        np.testing.assert_array_equal(walked[frame], alone)
    half = paint(tmp_path / "half", *TINY, "--mix", *apart)[0]  # half way is the duet of equal weights
    np.testing.assert_array_equal(walked[1], half)
    with Image.open(tmp_path / "walk" / "walk_0000.webp") as animation:
        assert (getattr(animation, "n_frames", 1), animation.size) == (3, (64, 64))
    assert str(tmp_path / "walk" / "walk_0000.webp") in capsys.readouterr().out


@pytest.mark.slow
def test_a_duet_follows_its_weights(apart, tmp_path):
    """The prompt is empty, so that x_T alone decides."""
    starts = (["--mix", *apart, "--weights", 9, 1], *(["--init_latents", voice] for voice in apart))
    duet, first, second = (
        paint(tmp_path / str(i), *start, "--prompt", "", "--steps", 2)[0] for i, start in enumerate(starts)
    )
    assert distance(duet, first) < 0.8 * distance(duet, second)


def test_a_duet_is_made_again(apart, voices, tmp_path):
    near = paint(tmp_path / "near", *TINY, "--mix", *apart, "--weights", 9, 1)[0]
    rows = [*TINY, "--mix", voices, voices, "--subject_idx", "0,1", "--weights", 9, 1]  # the same two in one file
    np.testing.assert_array_equal(paint(tmp_path / "rows", *rows)[0], near)
    image = tmp_path / "rows" / "samples" / "mix_sample_a-golden-spiral-on-purple_0000.png"
    again = ["--replay", str(image), "--outdir", str(tmp_path / "again")]
    assert txt2img.main([*again, "--mix", str(voices), str(voices)]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "again" / "samples" / image.name)), near)
    with pytest.raises(ValueError, match="give the same 2 files with --mix"):
        txt2img.main([*again, "--init_latents", str(voices)])
    swapped = ["--replay", str(tmp_path / "near" / "samples" / image.name), "--mix", *map(str, reversed(apart))]
    with pytest.raises(ValueError, match="without the same latents"):
        txt2img.main([*swapped, "--outdir", str(tmp_path / "swapped")])


@pytest.mark.slow
def test_the_shape_of_the_sound_is_visible(apart, tmp_path):
    whitening, basis = Whitening.load(config.BUILTIN_CALIBRATION_DIR / "whitening.npz"), cosine_basis(64)

    def likeness(voice: Path, strength: float) -> float:
        shape = sound_shape(whitening, torch.load(voice, weights_only=True).numpy()).ravel()
        options = ["--init_latents", voice, "--layout_strength", strength, "--steps", 8, *TINY]
        image = paint(tmp_path / f"{voice.stem} {strength}", *options)[0]
        coarse = np.stack([(basis @ image[..., colour] @ basis.T).ravel() for colour in range(3)])
        coarse[:, 0] = 0
        explained = coarse.T @ np.linalg.lstsq(coarse.T, shape, rcond=None)[0]  # by whatever colour
        return float(np.linalg.norm(explained) / np.linalg.norm(shape))

    without, with_it = ([likeness(voice, strength) for voice in apart] for strength in (0.0, 0.8))
    assert np.mean(with_it) > np.mean(without) + 0.2, (without, with_it)


def test_noise_as_latents_is_left_alone(tmp_path, capsys):
    """`--x_T auto` does not whiten what is N(0, I) already: saved noise gives the image of its seed."""
    torch.save(seeded_noise([42], (4, 32, 32)), tmp_path / "noise.pt")
    from_file = paint(tmp_path / "file", "--init_latents", tmp_path / "noise.pt")[0]
    np.testing.assert_array_equal(from_file, paint(tmp_path / "seed")[0])
    assert "whitened" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "start",
    [["--n_samples", 2], ["--init_latents", "EN", "--seed", 3], ["--mix", "EN", "IT", "--layout_strength", 0.5]],
    ids=["noise", "voice", "mix"],
)
def test_saved_noise_makes_the_same_images(start, voices, tmp_path, capsys):
    files = {"EN": voices.with_name("en.pt"), "IT": voices.with_name("it.pt")}
    size, saved = ["--size", "128x192", "--skip_grid", "--steps", 1], tmp_path / "sub" / "x_T.pt"
    images = paint(tmp_path / "a", *[files.get(str(word), word) for word in start], *size, "--save_x_T", saved)
    assert f"x_T ({len(images)}, 4, 24, 16): {saved}" in capsys.readouterr().out
    again = paint(tmp_path / "b", "--init_latents", saved, "--x_T", "raw", "--subject_idx", "all", *size)
    np.testing.assert_array_equal(images, again)
    known = [name for word, name in (("EN", "voice_en.wav"), ("IT", "voice_it.wav")) if word in start]
    assert read_names(saved, len(images)) == [" + ".join(known)] * len(images)


def test_voices_are_named_with_what_whitens_them(voices, tmp_path, capsys):
    torch.save(torch.load(voices, weights_only=True), tmp_path / "bob.pt")
    paint(tmp_path / "a", "--mix", voices, tmp_path / "bob.pt", *TINY, "--verbose")
    said = capsys.readouterr().out
    assert f"start noise: {voices}, {tmp_path / 'bob.pt'}, whitened by the built-in calibration" in said
    latents = 5 * torch.load(voices, weights_only=True)  # no calibration gives these
    torch.save(latents, tmp_path / "foreign.pt")
    paint(tmp_path / "b", "--init_latents", tmp_path / "foreign.pt", "--steps", 1)
    assert "no calibration here made these latents" in capsys.readouterr().err


@pytest.mark.slow
def test_subjects_by_list_and_all(voices, tmp_path):
    latents = torch.load(voices, weights_only=True)
    torch.save(latents[[0, 1, 0]], tmp_path / "three.pt")
    three = ["--init_latents", tmp_path / "three.pt", "--batch_size", 2, *TINY]
    chosen = paint(tmp_path / "list", *three, "--subject_idx", "0,1-2")
    names = [path.name[:11] for path in sorted((tmp_path / "list" / "samples").iterdir())]
    assert names == ["subject_000", "subject_001", "subject_002"]
    assert distance(chosen[0], chosen[2]) < 1, "the same voice in another batch, to within rounding"
    assert distance(chosen[0], chosen[1]) > 2
    every = paint(tmp_path / "all", *three, "--subject_idx", "all", "--skip_grid")
    for one, other in zip(chosen, every, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not list((tmp_path / "all").glob("grid*")) and list((tmp_path / "list").glob("grid*"))


# --- words -----------------------------------------------------------------------------------------------------------
def test_words_without_effect_are_named(tmp_path, capsys):
    paint(tmp_path / "a", *TINY, "--prompt", "a Café Xyzzyqwért, 日本 of gold")
    said = capsys.readouterr()
    assert "drawn: gold, shape and other colours by the seed; no effect: Café, Xyzzyqwért, 日本 (it reads" in said.out
    assert not said.err
    paint(tmp_path / "b", *TINY, "--prompt", "a Café Xyzzyqwért, 日本 of gold", "--reading", "all")
    said = capsys.readouterr()
    assert said.err.endswith("leaves them out: xyzzyqwért, 日本\n") and "drawn:" not in said.out
    accented = paint(tmp_path / "c", *TINY, "--prompt", "Látticé")[0]
    np.testing.assert_array_equal(accented, paint(tmp_path / "d", *TINY, "--prompt", "lattice")[0])


def test_a_prompt_without_any_known_word_is_named(tmp_path, capsys):
    first = paint(tmp_path / "a", *TINY, "--prompt", "Xyzzyqwert!")[0]
    assert "drawn: shape and colours by the seed; no effect: Xyzzyqwert\n" in capsys.readouterr().out
    np.testing.assert_array_equal(first, paint(tmp_path / "b", *TINY, "--prompt", "")[0])
    assert "no effect" not in capsys.readouterr().out
    fallback = paint(tmp_path / "c", *TINY, "--prompt", WordEmbedder.fallback_prompt)[0]
    np.testing.assert_array_equal(first, fallback)
    every_word = paint(tmp_path / "d", *TINY, "--prompt", "Xyzzyqwert!", "--reading", "all")[0]
    assert "no known word is left in the prompt 'Xyzzyqwert!'" in capsys.readouterr().err
    np.testing.assert_array_equal(first, every_word)


def test_words_without_effect_in_a_negative_prompt_are_named(tmp_path, capsys):
    first = paint(tmp_path / "a", *TINY, "--negative_prompt", "Xyzzyquert!")[0]
    assert "no effect in the negative prompt: Xyzzyquert\n" in capsys.readouterr().out
    np.testing.assert_array_equal(first, paint(tmp_path / "b", *TINY)[0])


@pytest.mark.slow
def test_a_prompt_has_the_image_of_what_it_is_read_as(tmp_path):
    same = ("orange rings", "orange Ringe", "#ff8800 rings", "orange rings tiger")
    first, *others = (paint(tmp_path / str(i), *TINY, "--prompt", prompt)[0] for i, prompt in enumerate(same))
    assert all(np.array_equal(image, first) for image in others)


# --- the model -------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_precisions_agree(tmp_path):
    full, low = (paint(tmp_path / name, *TINY, "--precision", name)[0] for name in ("full", "bf16"))
    assert 0 < distance(full, low) < 12


@pytest.mark.slow
def test_what_low_precision_spoils_is_made_again_in_full(tmp_path, monkeypatch, capsys):
    decode = LatentDiffusion.decode_first_stage

    def overflow(self, z):
        image = decode(self, z)
        return image if self.dtype == torch.float32 else image * torch.nan

    full = paint(tmp_path / "full", *TINY, "--precision", "full")[0]
    monkeypatch.setattr(LatentDiffusion, "decode_first_stage", overflow)
    spoiled = paint(tmp_path / "bf16", *TINY, "--precision", "bf16")[0]
    np.testing.assert_array_equal(spoiled, full)
    (image,) = (tmp_path / "bf16" / "samples").iterdir()
    said = json.loads(Image.open(image).info["voicetoimg"])
    assert said["picture"]["precision"] == "fp32"
    assert "bf16 gave no image; again in fp32" in capsys.readouterr().err


@pytest.mark.slow
def test_a_prompt_is_encoded_once(tmp_path, monkeypatch):
    txt2img._painters.clear()  # it would know the prompts of the tests before
    encode, encoded = LatentDiffusion.get_learned_conditioning, []

    def noted(self: LatentDiffusion, prompts: list[str]) -> torch.Tensor:
        encoded.extend(prompts)
        return encode(self, prompts)

    monkeypatch.setattr(LatentDiffusion, "get_learned_conditioning", noted)
    small = [*TINY, "--n_samples", 3, "--batch_size", 1]
    paint(tmp_path / "a", *small)
    compared = [""] * 3  # each of three batches is asked which of its prompts are empty
    assert encoded == ["a golden spiral on purple", "", *compared, *compared]  # and of its negative prompts
    encoded.clear()
    txt2img._painters.clear()
    paint(tmp_path / "b", *small, "--scale", 1)
    assert encoded == ["a golden spiral on purple", *compared]


def test_a_model_is_let_go_before_another_is_loaded(monkeypatch):
    import painting.ldm_painter

    load, gone = painting.ldm_painter.load_model, []

    def noted(*arguments: Any, **options: Any) -> LatentDiffusion:
        gone.append(first() is None)
        return load(*arguments, **options)

    txt2img._painters.clear()
    cpu = torch.device("cpu")
    builtin = ModelFiles(config.BUILTIN_MODEL_WEIGHTS)
    painter: Any = txt2img.painter_of(builtin, "bf16", cpu)
    first = weakref.ref(painter.model)
    del painter
    monkeypatch.setattr(painting.ldm_painter, "load_model", noted)
    kept = txt2img.painter_of(builtin, "fp32", cpu)
    assert txt2img.painter_of(builtin, "fp32", cpu) is kept
    assert gone == [True]
