"""txt2img.py and the built-in model, as a user runs them."""

import json
import os
import pkgutil
import re
import struct
import subprocess
import sys
import weakref
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import config
import standby
import txt2img
from ldm.models.diffusion.sampling import seeded_noise
from ldm.modules.encoders.modules import WordEmbedder
from painting.image_spec import ImageSpec
from painting.options import guidance_rescale_of, parse_options
from painting.plan import plan

ROOT = config.REPO_DIR


def run(*arguments: object, data: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"VOICETOIMG_DATA_DIR": str(data)}
    command = [sys.executable, str(ROOT / "txt2img.py"), *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=data, capture_output=True, text=True, timeout=120)


def paint(folder: Path, *arguments: object) -> list[np.ndarray]:
    """The pictures [H, W, 3] that txt2img.py makes in `folder`, in this process, in order."""
    standard = ["--outdir", folder, "--prompt", "a golden spiral on purple", "--ddim_steps", 3]
    assert txt2img.main([str(argument) for argument in [*standard, *arguments]]) == 0
    return [np.asarray(Image.open(path)) for path in sorted((folder / "samples").iterdir())]


@pytest.fixture(scope="module")
def voices(tmp_path_factory) -> Path:
    """Latents [2, 4, 32, 32] of two recordings in examples/."""
    import process_live_audio

    folder = tmp_path_factory.mktemp("voices")
    rows = []
    for name in ("voice_en.wav", "voice_it.wav"):
        out = folder / f"{name}.pt"
        process_live_audio.main(["--input_file", str(config.EXAMPLES_DIR / name), "--output_file", str(out)])
        rows.append(torch.load(out, weights_only=True))
    torch.save(torch.cat(rows), folder / "voices.pt")
    return folder / "voices.pt"


def test_same_command_same_bytes_and_nothing_is_overwritten(voices, tmp_path):
    first, second = (run("--init_latents", voices, "--ddim_steps", 4, data=tmp_path) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    samples = tmp_path / "outputs" / "txt2img-samples" / "samples"
    names = [f"subject_000_sample_{i:04d}.png" for i in range(2)]
    assert sorted(path.name for path in samples.iterdir()) == names
    assert (samples / names[0]).read_bytes() == (samples / names[1]).read_bytes()
    for result, name in zip((first, second), names, strict=True):
        assert f"picture: {samples / name}" in result.stdout
    assert Image.open(samples / names[0]).size == (256, 256)


def test_another_voice_seed_or_prompt_gives_another_picture(voices, tmp_path):
    from_voice = ["--init_latents", voices]
    variants = {
        "one": from_voice,
        "voice": [*from_voice, "--subject_idx", 1],
        "seed": [*from_voice, "--seed", 43],
        "prompt": [*from_voice, "--prompt", "calm blue and turquoise waves"],
        "raw": [*from_voice, "--x_T", "raw"],
        "noise": [],
        "sampler": [*from_voice, "--plms"],
        "scale": [*from_voice, "--scale", 1],
    }
    pictures = {name: paint(tmp_path / name, *arguments)[0] for name, arguments in variants.items()}
    for name, picture in pictures.items():
        assert picture.std() > 5, f"{name} is flat"
        if name != "one":
            assert np.abs(picture.astype(int) - pictures["one"]).mean() > 2, f"{name} changes nothing"


def test_voice_outweighs_the_seed(voices, tmp_path, monkeypatch):
    """Without a prompt, and so without shapes to choose, another seed changes less than another voice."""
    monkeypatch.setattr(WordEmbedder, "fallback_prompt", "")
    from_voice = ["--init_latents", voices, "--prompt", ""]
    one = paint(tmp_path / "one", *from_voice)[0].astype(int)
    seed = paint(tmp_path / "seed", *from_voice, "--seed", 43)[0]
    voice = paint(tmp_path / "voice", *from_voice, "--subject_idx", 1)[0]
    assert np.abs(seed - one).mean() < 0.8 * np.abs(voice - one).mean()


def test_a_batch_holds_the_pictures_of_its_seeds(voices, tmp_path):
    batch = paint(tmp_path / "batch", "--init_latents", voices, "--n_samples", 2, "--n_iter", 2)
    assert len(batch) == 4
    assert Image.open(tmp_path / "batch" / "grid_0000.png").size == (512, 512)
    for i, picture in enumerate(batch):
        alone = paint(tmp_path / str(i), "--init_latents", voices, "--seed", 42 + i)[0]
        assert np.abs(picture.astype(int) - alone).mean() < 1, "to within rounding"


@pytest.mark.parametrize("sampler", ["ddim", "plms", "dpmpp"])
@pytest.mark.parametrize("steps", [1, 3, 75])
def test_exactly_as_many_steps_as_asked_for(sampler, steps, tmp_path, monkeypatch):
    from painting.image_spec import SAMPLERS

    made = []
    cls = pkgutil.resolve_name(SAMPLERS[sampler].target)
    loop = cls._loop
    monkeypatch.setattr(cls, "_loop", lambda *a: (made.append(1) or step for step in loop(*a)))
    small = ["--H", 64, "--W", 64]
    paint(tmp_path, "--sampler", sampler, "--ddim_steps", steps, *small)
    assert len(made) == steps


def test_other_sizes(tmp_path):
    assert paint(tmp_path, "--H", 128, "--W", 192)[0].shape == (128, 192, 3)


@pytest.fixture(scope="module")
def apart(voices) -> list[Path]:
    """The two voices in a file each, as two people bring them."""
    return [voices.with_name("voice_en.wav.pt"), voices.with_name("voice_it.wav.pt")]


def test_a_walk_starts_and_ends_at_the_voices_and_is_an_animation(apart, tmp_path, capsys):
    walked = paint(tmp_path / "walk", "--walk", *apart, "--frames", 3, "--batch_size", 1)
    assert len(walked) == 3
    for frame, path in ((0, apart[0]), (-1, apart[1])):
        alone = paint(tmp_path / str(frame), "--init_latents", path)[0]
        np.testing.assert_array_equal(walked[frame], alone)
    half = paint(tmp_path / "half", "--mix", *apart)[0]  # half way is the duet of equal weights
    np.testing.assert_array_equal(walked[1], half)
    with Image.open(tmp_path / "walk" / "walk_0000.webp") as animation:
        assert (animation.n_frames, animation.size) == (3, (256, 256))
    assert str(tmp_path / "walk" / "walk_0000.webp") in capsys.readouterr().out


def test_a_duet_follows_its_weights_and_is_made_again(apart, voices, tmp_path):
    mostly = ["--mix", *apart, "--weights", 9, 1]
    near = paint(tmp_path / "near", *mostly)[0].astype(int)
    # where the prompt says nothing, x_T alone decides
    plain = [
        paint(tmp_path / f"plain{i}", *latents, "--prompt", "")[0].astype(int)
        for i, latents in enumerate((mostly, ["--init_latents", apart[0]], ["--init_latents", apart[1]]))
    ]
    assert np.abs(plain[0] - plain[1]).mean() < 0.8 * np.abs(plain[0] - plain[2]).mean()
    rows = ["--mix", voices, voices, "--subject_idx", "0,1", "--weights", 9, 1]  # the same two in one file
    np.testing.assert_array_equal(paint(tmp_path / "rows", *rows)[0], near)
    picture = tmp_path / "rows" / "samples" / "mix_sample_0000.png"
    again = ["--replay", str(picture), "--outdir", str(tmp_path / "again")]
    assert txt2img.main([*again, "--mix", str(voices), str(voices)]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "again" / "samples" / picture.name)), near)
    with pytest.raises(ValueError, match="give the same 2 files with --mix"):
        txt2img.main([*again, "--init_latents", str(voices)])
    swapped = ["--replay", str(tmp_path / "near" / "samples" / picture.name), "--mix", *map(str, reversed(apart))]
    with pytest.raises(ValueError, match="without the same latents"):
        txt2img.main([*swapped, "--outdir", str(tmp_path / "swapped")])


def test_layout_shows_the_shape_of_the_sound(apart, tmp_path):
    from audio.initial_noise import cosine_basis, sound_shape
    from audio.whitening import Whitening

    whitening, basis = Whitening.load(config.BUILTIN_CALIBRATION_DIR / "whitening.npz"), cosine_basis(256)

    def likeness(voice: Path, strength: float) -> float:
        layout = sound_shape(whitening, torch.load(voice, weights_only=True).numpy()).ravel()
        options = ["--init_latents", voice, "--layout_strength", strength, "--ddim_steps", 8]
        picture = paint(tmp_path / f"{voice.stem} {strength}", *options)[0]
        coarse = np.stack([(basis @ picture[..., colour] @ basis.T).ravel() for colour in range(3)])
        coarse[:, 0] = 0
        explained = coarse.T @ np.linalg.lstsq(coarse.T, layout, rcond=None)[0]  # by whatever colour
        return float(np.linalg.norm(explained) / np.linalg.norm(layout))

    without, with_it = ([likeness(voice, strength) for voice in apart] for strength in (0.0, 0.8))
    assert np.mean(with_it) > np.mean(without) + 0.2, (without, with_it)


def test_noise_as_latents_is_left_alone(tmp_path, capsys):
    """auto does not whiten what is N(0, I) already: saved noise gives the picture of its seed."""
    torch.save(seeded_noise([42], (4, 32, 32)), tmp_path / "noise.pt")
    from_file = paint(tmp_path / "file", "--init_latents", tmp_path / "noise.pt")[0]
    np.testing.assert_array_equal(from_file, paint(tmp_path / "seed")[0])
    assert "whitened" not in capsys.readouterr().out


def test_voices_of_a_mix_are_named_with_what_whitens_them(voices, tmp_path, capsys):
    torch.save(torch.load(voices, weights_only=True), tmp_path / "bob.pt")
    paint(tmp_path / "a", "--mix", voices, tmp_path / "bob.pt")
    said = capsys.readouterr().out
    assert f"start noise: {voices}, {tmp_path / 'bob.pt'}, whitened by the built-in calibration" in said


def test_says_how_x_T_was_made(voices, tmp_path, capsys):
    paint(tmp_path / "a", "--init_latents", voices)
    assert "whitened by the built-in calibration" in capsys.readouterr().out
    latents = 5 * torch.load(voices, weights_only=True)  # no calibration gives these
    torch.save(latents, tmp_path / "foreign.pt")
    paint(tmp_path / "b", "--init_latents", tmp_path / "foreign.pt")
    assert "no calibration here made these latents" in capsys.readouterr().err


def test_subjects_by_list_and_all(voices, tmp_path):
    latents = torch.load(voices, weights_only=True)
    torch.save(latents[[0, 1, 0]], tmp_path / "three.pt")
    three = ["--init_latents", tmp_path / "three.pt", "--batch_size", 2]
    chosen = paint(tmp_path / "list", *three, "--subject_idx", "0,1-2")
    names = [path.name[:11] for path in sorted((tmp_path / "list" / "samples").iterdir())]
    assert names == ["subject_000", "subject_001", "subject_002"]
    assert np.abs(chosen[0].astype(int) - chosen[2]).mean() < 1, "the same voice in another batch, to within rounding"
    assert np.abs(chosen[0].astype(int) - chosen[1]).mean() > 2
    every = paint(tmp_path / "all", *three, "--subject_idx", "all", "--skip_grid")
    for one, other in zip(chosen, every, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not list((tmp_path / "all").glob("grid*")) and list((tmp_path / "list").glob("grid*"))


def test_negative_prompt_and_guidance_interval(tmp_path):
    one = paint(tmp_path / "one")[0].astype(int)
    for name, arguments in {
        "negative": ["--negative_prompt", "purple"],
        "interval": ["--guidance_interval", 0, 0.5],
        "rescale": ["--guidance_rescale", 0],
    }.items():
        assert np.abs(paint(tmp_path / name, *arguments)[0] - one).mean() > 0.5, name
    never = paint(tmp_path / "never", "--guidance_interval", 0, 0)[0]
    np.testing.assert_array_equal(never, paint(tmp_path / "unguided", "--scale", 1)[0])


@pytest.mark.parametrize(
    ("arguments", "phi"),
    [
        ([], config.BUILTIN_RESCALE),
        (["--model", "chladni"], config.BUILTIN_RESCALE),
        (["--model", "another"], 0.0),
        (["--ckpt", __file__], 0.0),
        (["--guidance_rescale", "0.2"], 0.2),
    ],
)
def test_guidance_is_as_the_model_needs_it(arguments, phi, tmp_path, monkeypatch):
    monkeypatch.setattr(config, "MODELS_DIR", tmp_path)
    for name in ("chladni", "another"):
        (tmp_path / name).mkdir()
    assert guidance_rescale_of(parse_options(None, arguments)) == phi


def test_a_picture_says_how_it_was_made_and_is_made_again(voices, tmp_path, capsys):
    arguments = ["--init_latents", voices, "--subject_idx", 1, "--seed", 7, "--sampler", "ddim", "--ddim_eta", 0.5]
    original = paint(tmp_path, *arguments, "--negative_prompt", "grün")[0]
    path = tmp_path / "samples" / "subject_001_sample_0000.png"
    line = Image.open(path).info["parameters"]
    told = f"Negative prompt: grün\nSteps: 3, Sampler: DDIM, CFG scale: {ImageSpec.scale:g}, "
    assert line.startswith("a golden spiral on purple\n" + told)
    assert "Seed: 7, Size: 256x256, Model hash: " in line and line.endswith("Model: chladni")
    again = ["--replay", str(path), "--outdir", str(tmp_path / "again")]
    assert txt2img.main([*again, "--init_latents", str(voices)]) == 0
    replayed = tmp_path / "again" / "samples" / path.name
    np.testing.assert_array_equal(np.asarray(Image.open(replayed)), original)
    with pytest.raises(ValueError, match="give the same with --init_latents"):
        txt2img.main(again)
    torch.save(torch.load(voices, weights_only=True) + 0.01, tmp_path / "others.pt")
    with pytest.raises(ValueError, match="without the same latents"):
        txt2img.main([*again, "--init_latents", str(tmp_path / "others.pt")])
    with pytest.raises(SystemExit):
        txt2img.main([*again, "--seed", "8"])
    assert "--seed is decided by the picture" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["full", "bf16"])
def test_a_picture_of_a_batch_is_made_again_to_the_last_bit(precision, tmp_path):
    """Alone it would come out a level off here and there: sums of products round differently with the batch."""
    originals = paint(tmp_path, "--precision", precision, "--n_samples", 3, "--batch_size", 3, "--skip_grid")
    path = tmp_path / "samples" / "sample_0001.png"
    assert txt2img.main(["--replay", str(path), "--outdir", str(tmp_path / "again")]) == 0
    (again,) = (tmp_path / "again" / "samples").iterdir()
    np.testing.assert_array_equal(np.asarray(Image.open(again)), originals[1])
    assert Image.open(again).info["voicetoimg"] == Image.open(path).info["voicetoimg"]


@pytest.mark.parametrize(
    "change",
    [
        {"sampler": "magic"},
        {"precision": "int1"},
        {"x_T": "stirred"},
        {"guidance_interval": ["a", "b"]},
        {"guidance_interval": 0.5},
        {"steps": "9"},
        {"steps": 10**9},
        {"seed": -1},
        {"subject": -1},
        {"subject": True},
        {"height": 10**6},
        {"scale": float("nan")},
        {"blend": [[0, "a"]]},
        {"blend": [[0, 0.0], [1, 0.0]]},
        {"batch_index": 1},
        {"model_sha256": 5},
        {"recipe": "secret"},
    ],
    ids=str,
)
def test_metadata_that_no_picture_has_get_one_line(change, tmp_path, capsys):
    paint(tmp_path)
    (path,) = (tmp_path / "samples").iterdir()
    content = json.loads(Image.open(path).info["voicetoimg"])
    (name,) = change
    content["picture" if name in content["picture"] else "made_from"].update(change)
    text = PngInfo()
    text.add_itxt("voicetoimg", json.dumps(content))
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png", pnginfo=text)
    with pytest.raises(ValueError, match="in a way that cannot be read"):
        txt2img.main(["--replay", str(tmp_path / "p.png")])


def test_no_metadata_leaves_nothing_of_the_prompt(tmp_path):
    paint(tmp_path, "--no_metadata", "--prompt", "xyzzy")
    content = (tmp_path / "samples" / "sample_0000.png").read_bytes()
    assert b"xyzzy" not in content and b"tEXt" not in content and b"iTXt" not in content


@pytest.mark.parametrize("content", ["", "not json", "[1]", '{"picture": {}, "made_from": {}}'])
def test_a_picture_without_or_with_broken_metadata_cannot_be_replayed(content, tmp_path):
    text = PngInfo()
    if content:
        text.add_itxt("voicetoimg", content)
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png", pnginfo=text)
    result = run("--replay", tmp_path / "p.png", data=tmp_path)
    assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr


@pytest.mark.parametrize(("side", "message"), [(3000, "more pixels than any"), (50_000, "more pixels than any")])
def test_a_picture_that_would_fill_the_memory_is_not_replayed(side, message, tmp_path):
    Image.new("1", (8, 8)).save(tmp_path / "p.png")
    png = (tmp_path / "p.png").read_bytes()
    header = b"IHDR" + struct.pack(">II", side, side) + png[24:29]
    (tmp_path / "p.png").write_bytes(png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:])
    result = run("--replay", tmp_path / "p.png", data=tmp_path)
    assert result.returncode == 1 and message in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("end", [20, 60, -5000])
def test_a_picture_that_was_cut_short_is_not_replayed(end, tmp_path):
    paint(tmp_path)
    (path,) = (tmp_path / "samples").iterdir()
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(ValueError, match=f"{path} "):
        txt2img.main(["--replay", str(path)])


def test_a_picture_made_from_noise_is_replayed_without_latents(voices, tmp_path):
    paint(tmp_path / "noise")
    (picture,) = (tmp_path / "noise" / "samples").iterdir()
    result = run("--replay", picture, "--init_latents", voices, data=tmp_path)
    assert result.returncode == 2 and "made from noise: leave out --init_latents" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_picture_made_from_a_voice_is_replayed_with_it_only(voices, tmp_path):
    paint(tmp_path / "voice", "--init_latents", voices)
    (picture,) = (tmp_path / "voice" / "samples").iterdir()
    result = run("--replay", picture, data=tmp_path)
    assert result.returncode == 2 and "made from latents: give the same with --init_latents" in result.stderr


def test_lines_of_prompts_that_begin_with_a_hash_are_comments(tmp_path):
    (tmp_path / "prompts.txt").write_text("# tonight\n\na red flower\n  # later\nshop no. #7\n")
    args = parse_options("", ["--from_file", str(tmp_path / "prompts.txt")])
    assert [spec.prompt for spec in plan(args, [], torch.device("cpu"))] == ["a red flower", "shop no. #7"]


def test_prompts_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "prompts.txt").write_bytes(b"\xef\xbb\xbfa red flower\r\n")
    args = parse_options("", ["--from_file", str(tmp_path / "prompts.txt")])
    assert [spec.prompt for spec in plan(args, [], torch.device("cpu"))] == ["a red flower"]


def test_prompts_that_are_no_text_get_one_line(tmp_path):
    (tmp_path / "prompts.txt").write_bytes(b"caf\xe9")
    result = run("--from_file", tmp_path / "prompts.txt", data=tmp_path)
    assert result.returncode == 1 and "prompts.txt is not text in UTF-8" in result.stderr


def stand_by(requests: list[dict], *options: object, text: str = "") -> list[dict]:
    """Return the answers of txt2img.py to requests, or to `text`."""
    result = subprocess.run(
        [sys.executable, "txt2img.py", "--standby", "--steps", "1", *map(str, options)],
        input=text or "".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True, text=True, cwd=config.REPO_DIR, timeout=240,
    )  # fmt: skip
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    ready, *answers = [line for line in lines if not line.keys() & set(standby.EVENTS)]
    assert ready == {"ready": True} and len(answers) == max(len(requests), bool(text)), result.stderr
    return answers


@pytest.mark.parametrize("option", ["--mix", "--walk"])
def test_scripts_that_stand_by_may_mix(option, voices, tmp_path):
    """And answer a last request that has no end of line."""
    (answer,) = stand_by([], option, voices, voices, "--outdir", tmp_path, text='{"seed": 7}')
    assert answer["pictures"]


def test_a_request_goes_before_what_was_given_at_the_start(voices, tmp_path):
    requests = [
        {"seed": 7},
        {"init_latents": str(voices)},
        {"walk": [str(voices), str(voices)], "from_file": str(tmp_path / "prompts.txt")},
        {"replay": str(tmp_path / "samples" / "sample_0000.png")},
        {"plms": True},
        {"weights": [1, 3]},
        {"init_latents": str(voices), "weights": [1, 3]},
        {"help": True},
        {"init_latents": str(voices), "skip_grid": False, "n_samples": 2, "sampler": "plms"},
    ]
    (tmp_path / "prompts.txt").write_text("a red flower\n")
    start = ["--skip_grid", "--sampler", "ddim", "--ddim_eta", 0.5, "--prompt", "calm blue waves", "--frames", 3]
    start += ["--voice_strength", 0.5, "--x_T", "whitened"]
    noise, voice, walk, again, plms, weights, both, help_, grid = stand_by(requests, *start, "--outdir", tmp_path)
    first, second, *others = (json.loads(Image.open(answer["pictures"][0]).info["voicetoimg"])["picture"]
                              for answer in (noise, voice, walk, again, plms))  # fmt: skip
    assert (first["seed"], first["subject"], first["prompt"]) == (7, None, "calm blue waves")
    assert (second["seed"], second["subject"], second["voice_strength"]) == (42, 0, 0.5)
    assert len(walk["pictures"]) == 3 and others[0]["prompt"] == "a red flower"
    assert others[1] == first and others[2]["sampler"] == "plms"
    assert all("--weights is for the voices of --mix" in answer["error"] for answer in (weights, both))
    assert len(grid["pictures"]) == 2 and (tmp_path / "grid_0000.png").is_file()
    assert help_["error"] == "help and version are for the command line"


def test_a_request_may_name_another_model_and_other_voices(voices, tmp_path):
    weights = config.BUILTIN_MODEL_WEIGHTS
    start = ["--ckpt", weights, "--config", weights.with_name("model.yaml"), "--mix", voices, voices, "--weights", 1, 3]
    start += ["--subject_idx", "0,1"]
    requests = [{}, {"model": "chladni", "init_latents": str(voices)}]
    mixed, plain = stand_by(requests, *start, "--outdir", tmp_path)
    mixed, plain = (json.loads(Image.open(a["pictures"][0]).info["voicetoimg"])["picture"] for a in (mixed, plain))
    assert mixed["blend"] == [[0, 0.25], [1, 0.75]] and (plain["blend"], plain["subject"]) == ([], 0)
    assert (mixed["guidance_rescale"], plain["guidance_rescale"]) == (0.0, config.BUILTIN_RESCALE)


@pytest.mark.parametrize("options", [(), ("--x_T", "whitened"), ("--H", 128, "--W", 64, "--x_T", "whitened")])
def test_a_rehearsal_warns_of_nothing(options, tmp_path):
    (answer,) = stand_by([{}], *options, "--outdir", tmp_path)
    assert answer["pictures"] and answer["warned"] == []


def test_an_interrupted_job_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    from painting.ldm_painter import LatentDiffusionPainter as Painter

    (tmp_path / "prompts.txt").write_text("a red flower\n\n  calm blue waves  \na green spiral\n")
    command = ["--from_file", str(tmp_path / "prompts.txt"), "--outdir", str(tmp_path / "out"), "--ddim_steps", "2"]
    command += ["--batch_size", "1"]
    painted: list[str] = []
    paint_batch = Painter.paint

    def paint_until_the_third(self, specs, *rest):
        if len(painted) == 2:
            painted.append("interrupted")
            raise KeyboardInterrupt
        painted.append(specs[0].prompt)
        return paint_batch(self, specs, *rest)

    monkeypatch.setattr(Painter, "paint", paint_until_the_third)
    with pytest.raises(KeyboardInterrupt, match="finished pictures are kept, the same command goes on"):
        txt2img.main(command)
    assert txt2img.main(command) == 0
    assert painted == ["a red flower", "calm blue waves", "interrupted", "a green spiral"]
    assert "2 of 3 pictures are there already" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "samples").iterdir())) == 3
    assert not list((tmp_path / "out").glob(".unfinished*"))


def test_what_low_precision_spoils_is_made_again_in_full(tmp_path, monkeypatch, capsys):
    from ldm.models.diffusion.ddpm import LatentDiffusion

    decode = LatentDiffusion.decode_first_stage

    def overflow(self, z):
        picture = decode(self, z)
        return picture if self.dtype == torch.float32 else picture * torch.nan

    full = paint(tmp_path / "full", "--precision", "full")[0]
    monkeypatch.setattr(LatentDiffusion, "decode_first_stage", overflow)
    spoiled = paint(tmp_path / "bf16", "--precision", "bf16")[0]
    np.testing.assert_array_equal(spoiled, full)
    said = json.loads(Image.open(tmp_path / "bf16" / "samples" / "sample_0000.png").info["voicetoimg"])
    assert said["picture"]["precision"] == "fp32"
    assert "bf16 gave no picture; again in fp32" in capsys.readouterr().err


def test_the_preview_shows_what_becomes(tmp_path):
    seeds = [paint(tmp_path / str(seed), "--seed", seed, "--preview_every", 3)[0] for seed in (1, 2)]
    preview = np.asarray(Image.open(tmp_path / "1" / "preview.png").convert("RGB"), float)
    assert preview.shape == (128, 128, 3)
    pictures = [np.asarray(Image.fromarray(picture).resize((128, 128), Image.BOX), float) for picture in seeds]
    own, other = (np.corrcoef(preview.ravel(), picture.ravel())[0, 1] for picture in pictures)
    assert own > 0.8 and other < 0.5


SMALL = ("--H", "64", "--W", "64")
BARS = re.compile(r"(\d+)/(\d+) \[[^\r\n]*s/step")


def test_one_bar_for_the_job(tmp_path):
    pytest.importorskip("pty")  # not on Windows
    from person import Person

    arguments = ["--n_samples", "3", "--batch_size", "2", "--ddim_steps", "4", *SMALL]
    environment = os.environ | {"VOICETOIMG_DATA_DIR": str(tmp_path)}
    person = Person(environment, *arguments, script=ROOT / "txt2img.py")
    assert person.sees_the_end() == 0
    bars = BARS.findall(person.seen)
    assert bars[-1] == ("8", "8") and {total for _, total in bars} == {"8"}


def test_progress_and_previews_are_events_in_standby(tmp_path):
    """Also while it warms up, as a sign of life."""
    request: dict[str, object] = {"steps": 3, "n_samples": 2, "batch_size": 1, "preview_every": 2}
    result = subprocess.run(
        [sys.executable, "txt2img.py", "--standby", *SMALL, "--outdir", tmp_path],
        input=json.dumps(request), capture_output=True, text=True, cwd=ROOT, timeout=120,
    )  # fmt: skip
    *events, answer = map(json.loads, result.stdout.splitlines())
    ready = events.index({"ready": True})
    assert events[:ready] == [{"progress": [1, 2]}, {"progress": [2, 2]}]
    preview = {"preview": str(tmp_path / "preview.png")}
    assert [event for event in events[ready + 1 :] if event != preview] == [{"progress": [n, 6]} for n in range(1, 7)]
    assert events.count(preview) == 2 and events[ready + 1 :].index(preview) == 2
    assert len(answer["pictures"]) == 2 and answer["warned"] == [] and result.stderr == ""


def test_a_last_line_that_names_every_file_and_nothing_of_a_bar_in_a_log(tmp_path):
    arguments = ["--n_samples", 3, "--batch_size", 2, "--ddim_steps", 4, *SMALL, "--preview_every", 2]
    result = run(*arguments, data=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    written = {path for path in (tmp_path / "outputs").rglob("*.png")}
    last = result.stdout.splitlines()[-1]
    assert last.startswith("written: ") and set(map(Path, last.split()[1:])) == written and len(written) == 5


def test_a_prompt_is_encoded_once(tmp_path, monkeypatch):
    from ldm.models.diffusion.ddpm import LatentDiffusion

    txt2img._painters.clear()  # it would know the prompts of the tests before
    encode, encoded = LatentDiffusion.get_learned_conditioning, []
    monkeypatch.setattr(
        LatentDiffusion, "get_learned_conditioning", lambda self, p: (encoded.extend(p), encode(self, p))[1]
    )
    small = ["--H", 64, "--W", 64, "--n_samples", 3, "--batch_size", 1]
    paint(tmp_path / "a", *small)
    compared = [""] * 3  # each of three batches is asked which of its prompts are empty
    assert encoded == ["a golden spiral on purple", "", *compared]
    encoded.clear()
    txt2img._painters.clear()
    paint(tmp_path / "b", *small, "--scale", 1)
    assert encoded == ["a golden spiral on purple", *compared]


def test_a_model_is_let_go_before_another_is_loaded(monkeypatch):
    import painting.ldm_painter

    load, gone = painting.ldm_painter.load_model, []
    txt2img._painters.clear()
    cpu = torch.device("cpu")
    first = weakref.ref(txt2img.painter_of(config.BUILTIN_MODEL_WEIGHTS, None, "bf16", cpu).model)
    monkeypatch.setattr(
        painting.ldm_painter, "load_model", lambda *a, **k: (gone.append(first() is None), load(*a, **k))[1]
    )
    kept = txt2img.painter_of(config.BUILTIN_MODEL_WEIGHTS, None, "fp32", cpu)
    assert txt2img.painter_of(config.BUILTIN_MODEL_WEIGHTS, None, "fp32", cpu) is kept
    assert gone == [True]


def test_precisions_agree(tmp_path):
    full, low = (paint(tmp_path / name, "--precision", name)[0].astype(int) for name in ("full", "bf16"))
    assert 0 < np.abs(full - low).mean() < 12


def nan_latents() -> torch.Tensor:
    latents = torch.zeros(1, 4, 32, 32)
    latents[0, 0, 0, 0] = torch.nan
    return latents


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (torch.zeros(1, 4, 16, 16), "[1, 4, 16, 16]"),
        (torch.zeros(4, 32, 32), "[4, 32, 32]"),
        (torch.zeros(0, 4, 32, 32), "[0, 4, 32, 32]"),
        (torch.zeros(1, 4, 32, 32, dtype=torch.int64), "int64"),
        (nan_latents(), "NaN"),
        ({"latents": torch.zeros(1)}, "dict"),
        (b"no tensor file", "no latents file"),
        (b"", "no latents file"),
    ],
)
def test_wrong_latents_get_one_line(content, expected, tmp_path):
    path = tmp_path / "wrong.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    result = run("--init_latents", path, data=tmp_path)
    assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr
    assert expected in result.stderr and str(path) in result.stderr


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_latents_that_carry_code_do_not_run_it(tmp_path):
    torch.save(Harmful(tmp_path / "harm"), tmp_path / "harmful.pt")
    result = run("--init_latents", tmp_path / "harmful.pt", data=tmp_path)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["--subject_idx", 999, "--init_latents", "VOICES"], 2, "holds latents 0 to 1"),
        (["--subject_idx", -1], 2, "--subject_idx"),
        (["--init_latents", "not_there.pt"], 2, "there is no file not_there.pt"),
        (["--init_latents", "DATA/data/latents/audio_latents_batch.pt"], 2, "batch.pt: run prep_ldm.py first"),
        (["--init_latents", "DATA/live_latent.pt"], 2, "live_latent.pt: run process_live_audio.py first"),
        (["--seed", 1.5], 2, f"a whole number from 0 to {2**62} "),
        (["--ddim_steps", 0], 2, "from 1 to 1000"),
        (["--ddim_steps", 1001], 2, "from 1 to 1000"),
        (["--scale", "much"], 2, "is not a number"),
        (["--scale", "nan"], 2, "is not a number"),
        (["--H", 264], 2, "--H 264: the built-in model needs multiples of 64"),
        (["--W", 100, "--ckpt", "VOICES"], 2, "--W 100: models need multiples of 8"),
        (["--H", 512, "--init_latents", "VOICES"], 1, "[N, 4, 64, 32]"),
        (["--ddim_eta", 0.5], 2, "add --sampler ddim"),
        (["--ckpt", "VOICES"], 1, "there is no voices.yaml beside it"),
        (["--colour", "red"], 2, "--colour"),
        (["--plms", "--sampler", "ddim"], 2, "--sampler: not allowed with argument --plms"),
        (["--subject_idx", 0], 2, "--subject_idx is about latents: name a file with --init_latents"),
        (["--voice_strength", 0.9], 2, "--voice_strength is about latents"),
        (["--x_T", "whitened"], 2, "--x_T is about latents"),
        (["--voice_strength", 0.5, "--x_T", "raw", "--init_latents", "VOICES"], 2, "--x_T raw leaves them as they are"),
        (["--scale", 1, "--negative_prompt", "blue"], 2, "--scale 1 is none"),
        (["--scale", 1, "--guidance_interval", 0, 1], 2, "--scale 1 is none"),
        (["--scale", 1, "--guidance_rescale", 0.5], 2, "--scale 1 is none"),
        (["--config", config.BUILTIN_MODEL_WEIGHTS], 2, "name its weights with --ckpt or --model"),
        (["--preview_every", 0], 2, "from 1 to 1000"),
        (["--preview_every", 21], 2, "is never reached in 20 steps"),
        (["--subject_idx", "5-3"], 2, "0,3,5-9"),
        (["--guidance_interval", 0.9, 0.1], 2, "LO must not be above HI"),
        (["--model", "nowhere"], 2, ": chladni"),
        (["--model", "calibration"], 1, "holds no weights"),
        (["--model", "../models"], 2, "a path goes to --ckpt"),
        (["--model", "chladni", "--ckpt", "VOICES"], 2, "give one of them"),
        (["--device", "cuda"], 2, "it can use cpu"),
        (["--replay", "VOICES"], 1, "is no picture"),
        (["--mix", "VOICES"], 2, "two files of latents at least"),
        (["--mix", "VOICES", "VOICES", "--weights", 1], 2, "2 numbers, one for each file"),
        (["--mix", "VOICES", "VOICES", "--weights", 0, 0], 2, "one of them above 0"),
        (["--mix", "VOICES", "VOICES", "--subject_idx", "0-2"], 2, "or 2, one for each"),
        (["--mix", "VOICES", "VOICES", "--subject_idx", "0,7"], 2, "holds latents 0 to 1\n"),
        (["--mix", "VOICES", "VOICES", "--subject_idx", 7], 2, "0 to 1; give one for each: --subject_idx 1,1\n"),
        (["--walk", "VOICES", "VOICES", "--frames", 1], 2, "from 2 to 10000"),
        (["--walk", "VOICES", "VOICES", "--weights", 1, 1], 2, "--weights is for the voices of --mix"),
        (["--init_latents", "VOICES", "--mix", "VOICES", "VOICES"], 2, "not allowed with argument"),
        (["--init_latents", "VOICES", "--layout_strength", 0.5, "--x_T", "raw"], 2, "leave one of them out"),
    ],
)
def test_wrong_command_lines_get_one_line(arguments, status, expected, voices, tmp_path):
    known = {"VOICES": str(voices), "DATA": str(tmp_path)}
    words = [re.sub("VOICES|DATA", lambda name: known[name[0]], str(argument)) for argument in arguments]
    result = run(*words, data=tmp_path)
    assert result.returncode == status and result.stderr.count("\n") == 1, result.stderr
    assert expected in result.stderr


def test_a_file_in_place_of_a_folder_gets_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    result = run("--outdir", tmp_path / "file", "--ddim_steps", 1, data=tmp_path)
    assert result.returncode == 2 and "is a file, a folder is needed" in result.stderr
    result = run("--outdir", tmp_path / "file" / "below", "--ddim_steps", 1, data=tmp_path)
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and "there is a file where" in result.stderr


def test_words_without_effect_are_named(tmp_path, capsys):
    paint(tmp_path / "a", "--prompt", "a Café Xyzzyqwért, 日本 of gold")
    assert capsys.readouterr().err.endswith("leaves out: xyzzyqwért, 日本\n")
    assert_same = np.testing.assert_array_equal
    accented = paint(tmp_path / "b", "--prompt", "café")[0]
    assert_same(accented, paint(tmp_path / "c", "--prompt", "cafe")[0])


def test_a_prompt_of_which_nothing_is_left_is_named(tmp_path, capsys):
    first = paint(tmp_path / "a", "--prompt", "Xyzzyqwert!")[0]
    said = capsys.readouterr().err
    assert "leaves out: xyzzyqwert\n" in said and "nothing is left of the prompt 'Xyzzyqwert!'" in said
    assert_same = np.testing.assert_array_equal
    assert_same(first, paint(tmp_path / "b", "--prompt", "")[0])
    assert capsys.readouterr().err == ""
    assert_same(first, paint(tmp_path / "c", "--prompt", WordEmbedder.fallback_prompt)[0])


def test_a_negative_prompt_of_which_nothing_is_left_is_named(tmp_path, capsys):
    first = paint(tmp_path / "a", "--negative_prompt", "Xyzzyquert!")[0]
    assert "nothing is left of the negative prompt 'Xyzzyquert!': it has no effect\n" in capsys.readouterr().err
    np.testing.assert_array_equal(first, paint(tmp_path / "b")[0])
