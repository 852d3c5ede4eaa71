"""Pipelines of diffusers in the whole program: options, voices, batches, resuming, the same image again, standby."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import config
import painting
import run_live_workflow
import txt2img
from painting import options
from painting.options import parse_options, parse_request
from painting.pipelines.painter import DiffusersPainter
from tests.painting import tiny_pipelines
from tests.painting.test_pipeline_loading import save_lora
from tests.programs import data_folder, run_main

pytestmark = pytest.mark.slow
SIZE = "--size=128"  # 16×16 latents, the least that hold a voice


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny pipelines as diffusers saves them: sd, and flux."""
    folder = tmp_path_factory.mktemp("models")
    for name, pipeline in (("sd", "StableDiffusionPipeline"), ("flux", "FluxPipeline")):
        tiny_pipelines.make_pipeline(pipeline).save_pretrained(folder / name)
    return folder


def images(data: Path) -> list[Path]:
    return sorted((data / "outputs" / "txt2img-samples" / "samples").glob("*.png"))


def test_a_voice_becomes_an_image_that_can_be_made_again(models, voices, tmp_path, monkeypatch):
    command = ("--ckpt", models / "sd", SIZE, "--steps", 2, "--init_latents", voices)
    made = run_main("txt2img.py", *command, "--prompt", "a red cat", "--preview_every", 1, data=tmp_path)
    assert made.returncode == 0 and not made.stderr, made.stderr
    assert "Stable Diffusion 1 and 2" in made.stdout and "50 steps of plms, scale 7.5" in made.stdout
    (first,) = images(tmp_path)
    with Image.open(first) as image:
        assert image.size == (128, 128)
        line, record = image.info["parameters"], json.loads(image.info["voicetoimg"])
    assert line.startswith("a red cat\nSteps: 2, Sampler: PLMS, CFG scale: 7.5, Seed: 42, Size: 128x128, Model hash: ")
    assert line.endswith("Model: sd") and "additions" not in record["made_from"]
    again = run_main("txt2img.py", "--ckpt", models / "sd", "--replay", first, "--init_latents", voices, data=tmp_path)
    assert again.returncode == 0, again.stderr
    assert images(tmp_path)[1].read_bytes() == first.read_bytes()
    assert (tmp_path / "outputs" / "txt2img-samples" / "preview.png").is_file()
    other = run_main(
        "txt2img.py", "--ckpt", models / "flux", "--replay", first, "--init_latents", voices, data=tmp_path
    )
    assert other.returncode == 1 and "cannot be made again without the model sd: sha256 " in other.stderr
    unnamed = run_main("txt2img.py", "--replay", first, "--init_latents", voices, data=tmp_path)
    assert ", that of chladni, is here; " in unnamed.stderr and "name it with --model" in unnamed.stderr
    monkeypatch.setattr(config, "MODELS_DIR", models)
    assert txt2img._how_to_name("sd", "chladni") == "; add --model sd" and not txt2img._how_to_name("sd", "sd")


def test_mixes_walks_and_batches(models, voices, tmp_path):
    both = [voices.with_name("en.pt"), voices.with_name("it.pt")]
    command = ("--ckpt", models / "flux", SIZE, "--steps", 1, "--walk", *both, "--frames", 3)
    assert run_main("txt2img.py", *command, data=tmp_path).returncode == 0
    walk = [np.asarray(Image.open(path)).astype(int) for path in images(tmp_path)]
    assert len(walk) == 3 and (tmp_path / "outputs" / "txt2img-samples" / "walk_0000.webp").is_file()
    result = run_main("txt2img.py", *command[:5], "--mix", *both, "--weights", 1, 0, data=tmp_path)
    assert result.returncode == 0, result.stderr
    mix = np.asarray(Image.open(images(tmp_path)[0])).astype(int)
    assert np.abs(mix - walk[0]).max() <= 2 and np.abs(walk[0] - walk[2]).mean() > 3


def test_a_job_is_resumed(models, tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_text("a\nb\nc\n")
    command = ("--ckpt", models / "sd", SIZE, "--steps", 1, "--from_file", tmp_path / "prompts.txt", "--batch_size", 1)
    painted: list[Any] = []

    def paint_two(self: Any, specs: Any, x_T: Any, on_step: Any = None) -> Any:
        if len(painted) == 2:
            raise KeyboardInterrupt
        painted.append(specs)
        return original(self, specs, x_T, on_step)

    original = DiffusersPainter.paint
    monkeypatch.setattr(DiffusersPainter, "paint", paint_two)
    assert run_main("txt2img.py", *command, data=tmp_path).returncode == 130
    monkeypatch.undo()
    result = run_main("txt2img.py", *command, data=tmp_path)
    assert "resuming: 2 of 3 images are finished" in result.stdout and len(images(tmp_path)) == 3


@pytest.mark.parametrize("words, message", [
    (["--sampler", "lms"], "--sampler lms: FLUX.1 has euler"),
    (["--negative_prompt", "x"], "--negative_prompt: FLUX.1 has no such setting"),
    (["--guidance_interval", "0", "0.5"], "--guidance_interval: FLUX.1 has no such setting"),
    (["--eta", "0.5"], "--eta: FLUX.1 has no such setting"),
    (["--reading", "all"], "--reading: FLUX.1 has no such setting"),
    (["--size", "520"], "--size: height 520: FLUX.1 needs multiples of 16, for instance 512 or 528"),
    (["--offload", "model", SIZE], "there is no GPU"),
])  # fmt: skip
def test_what_a_family_does_not_have_is_refused_by_name(models, tmp_path, words, message):
    result = run_main("txt2img.py", "--ckpt", models / "flux", "--device", "cpu", *words, data=tmp_path)
    assert result.returncode in (1, 2) and message in result.stderr, result.stderr
    assert result.stderr.count("\n") == 1 and not images(tmp_path)


@pytest.mark.parametrize("words", [["--lora", "F"], ["--vae", "F"], ["--sampler", "euler"]])
def test_what_the_built_in_model_does_not_have_is_refused_by_name(tmp_path, words):
    (tmp_path / "F").touch()
    given = [str(tmp_path / "F") if word == "F" else word for word in words]
    result = run_main("txt2img.py", *given, data=tmp_path)
    assert result.returncode == 2 and words[0] in result.stderr and result.stderr.count("\n") == 1


def test_requests_change_the_model_and_get_its_defaults(models):
    start = parse_options(None, ["--standby", "--ckpt", str(models / "sd"), "--scale", "3"])
    assert (start.steps, start.sampler, start.scale, start.H) == (50, "plms", 3, 64)
    other = parse_request(["--ckpt", str(models / "flux")], start)
    assert (other.steps, other.sampler, other.scale, other.H) == (28, "euler", 3, 1024)
    small = parse_request(["--ckpt", str(models / "flux"), "--steps", "2"], start)
    assert (small.steps, small.scale) == (2, 3)
    own = parse_options(None, ["--standby"])
    assert parse_request([], own).steps == config.BUILTIN_SAMPLING["steps"]
    assert parse_request(["--ckpt", str(models / "sd")], own).steps == 50
    weights = parse_request(["--ckpt", __file__], own)  # as of any other model for ldm/
    assert (weights.steps, weights.sampler, tuple(weights.guidance_interval)) == (20, "dpmpp", (0.0, 1.0))


def test_requests_are_painted_with_progress_and_the_model_is_loaded_once(models, voices, tmp_path, capsys):
    events: list[dict[str, Any]] = []
    with data_folder(tmp_path):
        start = parse_options(None, ["--standby", "--ckpt", str(models / "sd"), SIZE])
        txt2img.warm_up(start, events.append)
        for more in ([], ["--sampler", "euler", "--steps", "3"]):
            request = parse_request(["--init_latents", str(voices), "--steps", "2", *more], start)
            assert len(txt2img.answer(request, events.append)["pictures"]) == 1
    assert {"progress": [2, 2]} in events and {"progress": [3, 3]} in events
    assert capsys.readouterr().out.count("model: ") <= 1  # none where another test has loaded it


def test_the_python_api_has_the_same_bits(models, voices, tmp_path):
    painter = painting.load_painter(models / "sd", device="cpu", precision="fp32")
    voice = painting.load_voice(config.EXAMPLES_DIR / "voice_en.wav")
    x_T = painting.initial_noise(voice, painter=painter, height=128, width=128)
    image = painting.paint("a red cat", x_T, painter=painter, height=128, width=128, steps=2)
    command = ("--ckpt", models / "sd", SIZE, "--steps", 2, "--init_latents", voices, "--prompt", "a red cat")
    assert run_main("txt2img.py", *command, "--precision", "full", data=tmp_path).returncode == 0
    assert np.array_equal(np.asarray(image), np.asarray(Image.open(images(tmp_path)[0])))


def test_a_lora_is_in_the_text_and_needed_for_the_same_image(models, tmp_path):
    lora = save_lora(tmp_path / "my lora.safetensors")
    command = ("--ckpt", models / "sd", SIZE, "--steps", 2, "--prompt", "a red cat")
    made = run_main("txt2img.py", *command, "--lora", f"{lora}:0.5", data=tmp_path)
    assert made.returncode == 0, made.stderr
    (first,) = images(tmp_path)
    line = Image.open(first).info["parameters"]
    assert line.startswith("a red cat <lora:my lora:0.5>\nSteps: 2, ")
    assert re.search(r'Lora hashes: "my lora: [0-9a-f]{10}"$', line)
    again = ("--ckpt", models / "sd", "--replay", first)
    without = run_main("txt2img.py", *again, data=tmp_path)
    assert without.returncode == 1 and "without the same LoRAs" in without.stderr and "none is here" in without.stderr
    assert run_main("txt2img.py", *again, "--lora", f"{lora}:0.5", data=tmp_path).returncode == 0
    assert images(tmp_path)[1].read_bytes() == first.read_bytes()


@pytest.mark.parametrize("name, defaults", [("lcm-lora", (4, 1.0, "lcm")), ("plain", (50, 7.5, "plms"))])
def test_a_lora_for_few_steps_is_known_by_its_name(models, tmp_path, name, defaults):
    lora = save_lora(tmp_path / f"{name}.safetensors")
    args = parse_options(None, ["--ckpt", str(models / "sd"), "--lora", str(lora)])
    assert (args.steps, args.scale, args.sampler) == defaults
    assert options.useful_steps(args) == (1, 4 if name == "lcm-lora" else 50)


def test_the_live_workflow_hands_everything_on(models, tmp_path):
    lora = save_lora(tmp_path / "lcm.safetensors")
    words = ["--prompt", "x", "--ckpt", str(models / "sd"), "--lora", f"{lora}:0.5", str(lora), "--sampler", "euler"]
    live = run_live_workflow.parse(words)
    painted = parse_options(None, live.painting)
    assert painted.lora == [(lora, 0.5), (lora, 1.0)] and painted.sampler == "euler"
    assert live.steps == 4 and live.useful_steps == (1, 4)


def test_without_the_packages_one_line_says_the_command(models, tmp_path, monkeypatch):
    import builtins

    def missing(name: str, *rest: Any) -> Any:
        if name == "accelerate":
            raise ModuleNotFoundError("No module named 'accelerate'", name="accelerate")
        return original(name, *rest)

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", missing)
    txt2img._painters.clear()
    result = run_main("txt2img.py", "--ckpt", models / "sd", SIZE, data=tmp_path)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "needs the package accelerate" in result.stderr and "requirements-diffusers.txt" in result.stderr


def test_a_painter_says_when_memory_is_not_enough(models, monkeypatch):
    painter: Any = painting.load_painter(models / "sd", device="cpu", precision="fp32")

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(painter, "_run", full)
    with pytest.raises(RuntimeError, match="out of memory: try a smaller image"):
        painting.paint("x", torch.zeros(1, 4, 8, 8), painter=painter, height=64, width=64)
