"""The command line of txt2img.py, also as requests in standby: what is refused, and what a request may ask for."""

import json
import os
import queue
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from PIL import Image

import config
import standby
from audio.qualities import NAMES
from painting.options import parse_options, parse_request
from tests.programs import TINY, run_main, run_script


def nan_latents() -> torch.Tensor:
    latents = torch.zeros(1, 4, 32, 32)
    latents[0, 0, 0, 0] = torch.nan
    return latents


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (torch.zeros(4, 32, 32), "[4, 32, 32]"),
        (torch.zeros(0, 4, 32, 32), "[0, 4, 32, 32]"),
        (torch.zeros(1, 4, 32, 32, dtype=torch.int64), "int64"),
        (nan_latents(), "NaN"),
        ({"latents": torch.zeros(1)}, "dict"),
        (b"no tensor file", "not a latents file"),
        (b"", "not a latents file"),
    ],
)
def test_wrong_latents_get_one_line(content, expected, tmp_path):
    path = tmp_path / "wrong.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    result = run_main("txt2img.py", "--init_latents", path, "--x_T", "raw", data=tmp_path)
    assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr
    assert expected in result.stderr and str(path) in result.stderr


def test_latents_of_another_size_are_a_wrong_size(tmp_path):
    torch.save(torch.zeros(1, 4, 16, 16), tmp_path / "small.pt")
    result = run_main("txt2img.py", "--init_latents", tmp_path / "small.pt", "--x_T", "raw", data=tmp_path)
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert "--size: " in result.stderr and "holds latents [N, 4, 16, 16]" in result.stderr


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_latents_that_carry_code_do_not_run_it(tmp_path):
    torch.save(Harmful(tmp_path / "harm"), tmp_path / "harmful.pt")
    result = run_main("txt2img.py", "--init_latents", tmp_path / "harmful.pt", data=tmp_path)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["--subject_idx", 999, "--init_latents", "VOICES"], 2, "holds latents 0 to 1"),
        (["--subject_idx", -1], 2, "--subject_idx"),
        (["--init_latents", "not_there.pt"], 2, "there is no file not_there.pt"),
        (["--init_latents", "data/latents/audio_latents_batch.pt"], 2, "batch.pt: run prep_ldm.py first"),
        (["--init_latents", "live_latent.pt"], 2, "live_latent.pt: run process_live_audio.py first"),
        (["--seed", 1.5], 2, f"a whole number from 0 to {2**63 - 1} "),
        (["--steps", 0], 2, "from 1 to 1000"),
        (["--steps", 1001], 2, "from 1 to 1000"),
        (["--scale", "much"], 2, "is not a number"),
        (["--scale", "nan"], 2, "is not a number"),
        (["--size", "512x260", "--ckpt", "VOICES"], 2, "--size 512x260: models need multiples of 8"),
        (["--size", "512x"], 2, "neither a number such as 512, nor width and height as 512x256"),
        (["--size", "32"], 2, "32 is not a whole number from 64 to 2048"),
        (["--size", 512, "--H", 256], 2, "--size and --H or --W say the same"),
        (["--replay", "VOICES", "--size", 512], 2, "--size is decided by the image"),
        (["--W", 100, "--ckpt", "VOICES"], 2, "--W 100: models need multiples of 8"),
        (["--H", 512, "--init_latents", "VOICES", "--x_T", "raw"], 2, "[N, 4, 64, 32]"),
        (["--eta", 0.5], 2, "add --sampler ddim"),
        (["--ckpt", "VOICES"], 1, "needs a yaml"),
        (["--colour", "red"], 2, "--colour"),
        (["--plms", "--sampler", "ddim"], 2, "--sampler: not allowed with argument --plms"),
        (["--subject_idx", 0], 2, "--subject_idx has no effect without latents: name a file with --init_latents"),
        (["--voice_strength", 0.9], 2, "--voice_strength has no effect without latents"),
        (["--x_T", "whitened"], 2, "--x_T has no effect without latents"),
        (["--voice_strength", 0.5, "--x_T", "raw", "--init_latents", "VOICES"], 2, "keeps latents as they are"),
        (["--scale", 1, "--negative_prompt", "blue"], 2, "--scale 1 (no guidance)"),
        (["--scale", 1, "--guidance_interval", 0, 1], 2, "--scale 1 (no guidance)"),
        (["--scale", 1, "--guidance_rescale", 0.5], 2, "--scale 1 (no guidance)"),
        (["--config", config.BUILTIN_MODEL_WEIGHTS], 2, "name its weights with --ckpt or --model"),
        (["--preview_every", 0], 2, "from 1 to 1000"),
        (["--preview_every", 5], 2, "is never reached in 4 steps"),
        (["--preview_pause", 1], 2, "is for --preview_every"),
        (["--subject_idx", "5-3"], 2, "0,3,5-9"),
        (["--guidance_interval", 0.9, 0.1], 2, "LO must not be above HI"),
        (["--model", "nowhere"], 2, ": chladni"),
        (["--model", "calibration"], 1, "holds no weights"),
        (["--model", "../models"], 2, "give a path with --ckpt"),
        (["--model", "chladni", "--ckpt", "VOICES"], 2, "give one of them"),
        (["--replay", "VOICES"], 2, "is not a PNG image"),
        (["--replay", config.REPO_DIR / "README.md"], 2, "README.md is not a PNG image"),
        (["--init_latents", "VOICES", "--x_T", "raw", "--size", "256x512"], 2, "--size: "),
        (["--mix", "VOICES"], 2, "two files of latents or more"),
        (["--mix", "VOICES", "VOICES", "--weights", 1], 2, "2 numbers, one for each file"),
        (["--mix", "VOICES", "VOICES", "--weights", 0, 0], 2, "one of them above 0"),
        (["--mix", "VOICES", "VOICES", "--subject_idx", "0-2"], 2, "or 2, one for each"),
        (["--mix", "VOICES", "VOICES", "--subject_idx", "0,7"], 2, "holds latents 0 to 1\n"),
        (["--mix", "VOICES", "VOICES", "--subject_idx", 7], 2, "0 to 1; give one for each: --subject_idx 1,1\n"),
        (["--walk", "VOICES", "VOICES", "--frames", 1], 2, "from 2 to 10000"),
        (["--walk", "VOICES", "VOICES", "--weights", 1, 1], 2, "--weights is for the voices of --mix"),
        (["--init_latents", "VOICES", "--mix", "VOICES", "VOICES"], 2, "not allowed with argument"),
        (["--init_latents", "VOICES", "--layout_strength", 0.5, "--x_T", "raw"], 2, "leave one of them out"),
        (["--init_latents", "VOICES", "--save_x_T", "VOICES"], 2, "is the file of the latents: name another"),
        (["--save_x_T", "noise.npy"], 2, "noise.npy must end in .pt"),
        (["--outdir", __file__], 2, "is a file, a folder is needed"),
        (["--outdir", f"{__file__}/below"], 1, "there is a file where"),
    ],
)
def test_wrong_command_lines_get_one_line(arguments, status, expected, voices, tmp_path):
    words = [str(argument).replace("VOICES", str(voices)) for argument in arguments]
    result = run_main("txt2img.py", *words, data=tmp_path)
    assert result.returncode == status and result.stderr.count("\n") == 1, result.stderr
    assert expected in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what the test asks for")
def test_a_device_that_is_not_there_gets_one_line(tmp_path):
    result = run_main("txt2img.py", "--device", "cuda", data=tmp_path)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert re.search("--device: .*can use cpu", result.stderr)


def test_the_script_itself_ends_with_the_status_and_the_line(tmp_path):
    """A process of its own does what `run_main` does, with which the other mistakes are tested."""
    process, here = (run("txt2img.py", "--steps", 0, data=tmp_path) for run in (run_script, run_main))
    assert process.returncode == here.returncode == 2
    assert process.stderr == here.stderr and process.stdout == here.stdout == ""


@pytest.mark.parametrize("words", ["--size 128x192", "--size=128X192", "--size 128×192", "--W 128 --H 192"])
def test_sizes_are_width_and_height(words):
    args = parse_options("", words.split())
    assert (args.W, args.H, args.size) == (128, 192, None)
    assert parse_options("", ["--size", "128"]).H == parse_options("", ["--size", "128"]).W == 128


def test_a_request_changes_the_size_of_the_start():
    start = parse_options("", ["--size", "128"])
    one, side = parse_request(["--size=192x64"], start), parse_request(["--H=256"], start)
    assert (one.W, one.H) == (192, 64) and (side.W, side.H) == (128, 256)


# --- standby ---------------------------------------------------------------------------------------------------------
def stand_by(requests: Sequence[dict[str, Any]], *options: object, data: Path) -> list[dict[str, Any]]:
    """Return the answers of txt2img.py, in this process, to requests."""

    def receive(waiting: "queue.SimpleQueue[bytes | None]", parent: int) -> None:
        for request in requests:
            waiting.put(json.dumps(request).encode())
        waiting.put(None)

    with mock.patch.object(standby, "_receive", receive):
        result = run_main("txt2img.py", "--standby", "--steps", 1, *options, data=data)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    ready, *answers = [line for line in lines if not line.keys() & set(standby.EVENTS)]
    assert ready == {"ready": True} and len(answers) == len(requests), result.stderr
    return answers


def spec_of(answer: dict[str, Any]) -> dict[str, Any]:
    """Return how the first image of an answer was made."""
    return json.loads(Image.open(answer["pictures"][0]).info["voicetoimg"])["picture"]


def test_whole_numbers_of_a_request_may_have_a_point():
    """JavaScript, R and others have one kind of number, and may write 20 as 20.0."""
    start = parse_options("", ["--standby"])
    request = json.loads('{"steps": 20.0, "seed": 1e3, "scale": 7.0, "guidance_interval": [0.0, 0.5], "H": 512.0}')
    asked = standby._options(request, parse_request, start)
    assert (asked.steps, asked.seed, asked.scale, asked.H, asked.guidance_interval) == (20, 1000, 7.0, 512, [0.0, 0.5])
    for value in (20.5, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="is not a whole number"):
            standby._options({"steps": value}, parse_request, start)


@pytest.mark.slow
def test_a_process_answers_with_events_and_images(voices, tmp_path):
    """It also answers a last request that has no end of line."""
    requests = [{}, {"steps": 3, "n_samples": 2, "batch_size": 1, "preview_every": 2, "init_latents": str(voices)}]
    result = run_script(
        "txt2img.py", "--standby", "--mix", voices, voices, "--steps", 1, "--skip_grid", "--outdir", "out", *TINY,
        data=tmp_path, text="\n".join(map(json.dumps, requests)),
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    mixed, plain = (number for number, line in enumerate(lines) if "pictures" in line)
    # events also while it warms up, as a sign of life
    assert lines[:4] == [{"progress": [1, 2]}, {"progress": [2, 2]}, {"ready": True}, {"progress": [1, 1]}]
    assert mixed == 4 and plain == len(lines) - 1
    assert spec_of({"pictures": [str(tmp_path / lines[mixed]["pictures"][0])]})["blend"] == [[0, 0.5], [0, 0.5]]
    preview = {"preview": "out/preview.png"}
    events = lines[mixed + 1 : plain]
    assert [event for event in events if event != preview] == [{"progress": [n, 6]} for n in range(1, 7)]
    assert [number for number, event in enumerate(events) if event == preview] == [0, 3, 5, 8]  # prior, step 2
    assert len(lines[plain]["pictures"]) == 2
    assert lines[plain]["said"][-1] == "written: out/preview.png"  # the images are named as such
    assert lines[mixed]["warned"] == lines[plain]["warned"] == []


def test_images_too_small_for_a_voice_can_be_asked_for(tmp_path):
    (answer,) = stand_by([{"seed": 1}], *TINY, "--outdir", tmp_path, data=tmp_path)
    assert answer["pictures"]


def test_a_request_goes_before_what_was_given_at_the_start(voices, tmp_path):
    requests: list[dict[str, Any]] = [
        {"seed": 7},
        {"init_latents": str(voices)},
        {"walk": [str(voices), str(voices)], "from_file": str(tmp_path / "prompts.txt")},
        {"replay": str(tmp_path / "samples" / "sample_calm-blue-waves_0000.png")},
        {"plms": True},
        {"weights": [1, 3]},
        {"init_latents": str(voices), "weights": [1, 3]},
        {"help": True},
        {"init_latents": str(voices), "skip_grid": False, "n_samples": 2, "sampler": "plms"},
    ]
    (tmp_path / "prompts.txt").write_text("a red flower\n")
    start = ["--skip_grid", "--sampler", "ddim", "--eta", 0.5, "--prompt", "calm blue waves", "--frames", 3, *TINY]
    start += ["--voice_strength", 0.5, "--x_T", "whitened", "--outdir", tmp_path]
    noise, voice, walk, again, plms, weights, both, help_, grid = stand_by(requests, *start, data=tmp_path)
    first, second, *others = map(spec_of, (noise, voice, walk, again, plms))
    assert (first["seed"], first["subject"], first["prompt"]) == (7, None, "calm blue waves")
    assert (second["seed"], second["subject"], second["voice_strength"]) == (42, 0, 0.5)
    assert len(walk["pictures"]) == 3 and others[0]["prompt"] == "a red flower"
    (places,) = voice["voices"]
    assert set(places) <= set(NAMES) and len(places) > 6
    assert (noise["voices"], walk["voices"], grid["voices"]) == ([{}], [places, {}, places], [places, places])
    assert others[1] == first and others[2]["sampler"] == "plms"
    assert all("--weights is for the voices of --mix" in answer["error"] for answer in (weights, both))
    assert len(grid["pictures"]) == 2 and (tmp_path / "grid_0000.png").is_file()
    assert help_["error"] == "a request cannot ask for help or version"


def test_a_request_may_name_another_model_and_other_voices(voices, tmp_path):
    weights = shutil.copytree(config.BUILTIN_MODEL_WEIGHTS.parent, tmp_path / "copy") / "model.safetensors"
    start = ["--ckpt", weights, "--config", weights.with_name("model.yaml"), "--mix", voices, voices, "--weights", 1, 3]
    start += ["--subject_idx", "0,1", "--outdir", tmp_path, *TINY]
    requests = [{}, {"model": "chladni", "init_latents": str(voices)}]
    mixed, plain = map(spec_of, stand_by(requests, *start, data=tmp_path))
    assert mixed["blend"] == [[0, 0.25], [1, 0.75]] and (plain["blend"], plain["subject"]) == ([], 0)
    assert (mixed["guidance_rescale"], plain["guidance_rescale"]) == (0.0, config.BUILTIN_RESCALE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--x_T", "whitened", *TINY),
        ("--x_T", "whitened", "--H", 128, "--W", 192),
        ("--walk", "VOICES", "VOICES", "--frames", 2, *TINY),
    ],
)
def test_a_warm_up_warns_of_nothing(options, voices, tmp_path):
    words = [voices if option == "VOICES" else option for option in options]
    (answer,) = stand_by([{}], *words, "--outdir", tmp_path, data=tmp_path)
    assert answer["pictures"] and answer["warned"] == []
