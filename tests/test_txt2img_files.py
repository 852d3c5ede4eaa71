"""The files of txt2img.py: what an image says of itself, replays, jobs that go on, previews and progress."""

import json
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import config
import txt2img
from painting.generate import LONGEST_WORDS, words_of
from painting.image_spec import ImageSpec
from painting.ldm_painter import LatentDiffusionPainter
from painting.options import parse_options
from painting.plan import plan
from painting.png_text import read_chunks
from tests.programs import TINY, Finished, paint, run_main


def assert_one_line(result: Finished, status: int, message: str) -> None:
    assert result.returncode == status and message in result.stderr and result.stderr.count("\n") == 1, result


# --- what an image says of itself ------------------------------------------------------------------------------------
def test_an_image_says_how_it_was_made_and_is_made_again(voices, tmp_path, capsys):
    arguments = ["--init_latents", voices, "--subject_idx", 1, "--seed", 7, "--sampler", "ddim", "--eta", 0.5]
    original = paint(tmp_path, *arguments, "--negative_prompt", "grün")[0]
    path = tmp_path / "samples" / "subject_001_sample_a-golden-spiral-on-purple_0000.png"
    line = Image.open(path).info["parameters"]
    told = f"Negative prompt: grün\nSteps: 2, Sampler: DDIM, CFG scale: {ImageSpec.scale:g}, "
    assert line.startswith("a golden spiral on purple\n" + told)
    assert "Seed: 7, Size: 256x256, Model hash: " in line and line.endswith("Model: chladni")
    again = ["--replay", str(path), "--outdir", str(tmp_path / "again")]
    assert txt2img.main([*again, "--init_latents", str(voices)]) == 0
    replayed = tmp_path / "again" / "samples" / path.name
    np.testing.assert_array_equal(np.asarray(Image.open(replayed)), original)
    assert_one_line(run_main("txt2img.py", *again, data=tmp_path), 2, "give the same with --init_latents")
    torch.save(torch.load(voices, weights_only=True) + 0.01, tmp_path / "others.pt")
    with pytest.raises(ValueError, match="without the same latents"):
        txt2img.main([*again, "--init_latents", str(tmp_path / "others.pt")])
    with pytest.raises(SystemExit):
        txt2img.main([*again, "--seed", "8"])
    assert "--seed is decided by the image" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["full", "bf16"])
def test_an_image_of_a_batch_is_made_again_to_the_last_bit(precision, tmp_path):
    """Alone it would come out a level off here and there: sums of products round differently with the batch."""
    originals = paint(tmp_path, *TINY, "--precision", precision, "--n_samples", 3, "--batch_size", 3, "--skip_grid")
    path = tmp_path / "samples" / "sample_a-golden-spiral-on-purple_0001.png"
    assert txt2img.main(["--replay", str(path), "--outdir", str(tmp_path / "again")]) == 0
    (again,) = (tmp_path / "again" / "samples").iterdir()
    np.testing.assert_array_equal(np.asarray(Image.open(again)), originals[1])
    assert Image.open(again).info["voicetoimg"] == Image.open(path).info["voicetoimg"]


def test_no_metadata_leaves_nothing_of_the_prompt(tmp_path):
    paint(tmp_path, *TINY, "--no_metadata", "--prompt", "xyzzy")
    content = (tmp_path / "samples" / "sample_0000.png").read_bytes()  # nor is there a word of it in the name
    assert b"xyzzy" not in content and b"tEXt" not in content and b"iTXt" not in content


@pytest.fixture(scope="module")
def from_noise(tmp_path_factory) -> Path:
    """Return an image made from noise."""
    folder = tmp_path_factory.mktemp("noise")
    paint(folder, *TINY)
    return folder / "samples" / "sample_a-golden-spiral-on-purple_0000.png"


@pytest.fixture(scope="module")
def from_voice(voices, tmp_path_factory) -> Path:
    """Return an image made from a voice."""
    folder = tmp_path_factory.mktemp("voice")
    paint(folder, *TINY, "--init_latents", voices)
    return folder / "samples" / "subject_000_sample_a-golden-spiral-on-purple_0000.png"


def with_text(path: Path, content: str) -> Path:
    """Write an image with `content` as its text, if there is any."""
    text = PngInfo()
    if content:
        text.add_itxt("voicetoimg", content)
    Image.new("RGB", (8, 8)).save(path, pnginfo=text)
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"sampler": "magic"},
        {"recordings": "ann.ogg"},
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
def test_metadata_that_no_image_has_is_refused(change, from_noise, tmp_path):
    content = json.loads(Image.open(from_noise).info["voicetoimg"])
    (name,) = change
    content["picture" if name in content["picture"] else "made_from"].update(change)
    path = with_text(tmp_path / "p.png", json.dumps(content))
    with pytest.raises(ValueError, match="in a way that cannot be read"):
        txt2img.main(["--replay", str(path)])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "does not say how it was made"),
        ("not json", "in a way that cannot be read"),
        ("[1]", "in a way that cannot be read"),
        ('{"picture": {}, "made_from": {}}', "in a way that cannot be read"),
        ("{}", "does not say how it was made"),
    ],
)
def test_an_image_without_or_with_broken_metadata_cannot_be_replayed(content, problem, tmp_path):
    path = with_text(tmp_path / "p.png", content)
    assert_one_line(run_main("txt2img.py", "--replay", path, data=tmp_path), 2, problem)


@pytest.mark.parametrize("side", [3000, 50_000])
def test_an_image_that_would_fill_the_memory_is_not_replayed(side, tmp_path):
    Image.new("1", (8, 8)).save(tmp_path / "p.png")
    png = (tmp_path / "p.png").read_bytes()
    header = b"IHDR" + struct.pack(">II", side, side) + png[24:29]
    (tmp_path / "p.png").write_bytes(png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:])
    result = run_main("txt2img.py", "--replay", tmp_path / "p.png", data=tmp_path)
    assert_one_line(result, 2, "more pixels than any")


@pytest.mark.parametrize("end", [20, 60, -5000])
def test_an_image_that_was_cut_short_is_not_replayed(end, from_noise, tmp_path):
    (tmp_path / "p.png").write_bytes(from_noise.read_bytes()[:end])
    assert_one_line(run_main("txt2img.py", "--replay", tmp_path / "p.png", data=tmp_path), 2, f"{tmp_path}/p.png ")


def test_an_image_is_replayed_from_what_it_was_made_of(from_noise, from_voice, voices, tmp_path):
    noise = run_main("txt2img.py", "--replay", from_noise, "--init_latents", voices, data=tmp_path)
    assert_one_line(noise, 2, "made from noise: leave out --init_latents")
    voice = run_main("txt2img.py", "--replay", from_voice, data=tmp_path)
    assert_one_line(voice, 2, "made from latents: give the same with --init_latents")


def test_images_are_told_apart_by_their_names(voices, tmp_path):
    from_voice, two = ["--init_latents", voices, "--steps", 1], [voices, voices, "--subject_idx", "0,1", "--steps", 1]
    for start in (
        from_voice,
        [*from_voice, "--x_T", "raw"],
        [*from_voice, "--prompt", "a blue butterfly", *TINY],
        ["--mix", *two, *TINY],
        ["--walk", *two, *TINY, "--frames", 2],
        ["--steps", 1, *TINY],
    ):
        paint(tmp_path, *start)
    words = "sample_a-golden-spiral-on-purple"
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        f"mix_{words}_0000.png",
        f"{words}_0000.png",
        f"subject_000_raw_{words}_0000.png",
        "subject_000_sample_a-blue-butterfly_0000.png",
        f"subject_000_{words}_0000.png",
        *(f"walk_{words}_{number:04d}.png" for number in range(2)),
    ]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("A Red flower, green background!", "a-red-flower-green-background"),
        ("", ""),
        ("../..\\ | : ?*\n", ""),
        ("голубая бабочка", "голубая-бабочка"),
        ("नीली तितली", "नीली-तितली"),
        ("cafe\u0301", "café"),
        ("a " + "very " * 40 + "long one", "a" + "-very" * 11),
        ("蝶" * 100, "蝶" * 20),
    ],
)
def test_words_of_a_prompt_are_part_of_a_name(prompt, words):
    assert words_of(prompt) == words and len(words.encode()) <= LONGEST_WORDS


def test_images_say_which_recordings_they_are_of(voices, tmp_path, capsys):
    """Also on the lines of a job; a voice of weight 0 is none of them."""
    en, it = voices.with_name("en.pt"), voices.with_name("it.pt")
    paint(tmp_path, *TINY, "--walk", en, it, "--frames", 3, "--steps", 1)
    images = sorted((tmp_path / "samples").iterdir())
    of = [["voice_en.wav"], ["voice_en.wav", "voice_it.wav"], ["voice_it.wav"]]
    assert [json.loads(Image.open(path).info["voicetoimg"])["made_from"]["recordings"] for path in images] == of
    line = Image.open(images[1]).info["parameters"].splitlines()[-1]
    assert line.endswith(", Model: chladni, Recording: voice_en.wav + voice_it.wav")
    lines = [f"image: {path} ({n} of 3, {', '.join(of[n - 1])})" for n, path in enumerate(images, start=1)]
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("image: ")] == lines
    paint(tmp_path / "unknown", *TINY, "--init_latents", voices, "--steps", 1)  # saved again, without names
    (path,) = (tmp_path / "unknown" / "samples").iterdir()
    assert read_chunks(path)[1].recordings == ()
    assert capsys.readouterr().out.splitlines()[-1] == f"image: {path}"


def test_images_without_names_of_recordings_are_replayed(from_voice, voices, tmp_path):
    """Those of earlier versions, and those of recordings that have another name now."""
    content = json.loads(Image.open(from_voice).info["voicetoimg"])
    renamed = content | {"made_from": content["made_from"] | {"recordings": ["ann.ogg"]}}
    with_text(tmp_path / "renamed.png", json.dumps(renamed))
    del content["made_from"]["recordings"]
    with_text(tmp_path / "older.png", json.dumps(content))
    for name in ("renamed", "older"):
        paint_again = ["--replay", str(tmp_path / f"{name}.png"), "--init_latents", str(voices)]
        assert txt2img.main([*paint_again, "--outdir", str(tmp_path / name)]) == 0
        (path,) = (tmp_path / name / "samples").iterdir()
        assert (np.asarray(Image.open(path)) == np.asarray(Image.open(from_voice))).all()


# --- jobs ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("content", "prompts"),
    [
        (b"# tonight\n\na red flower\n  # later\nshop no. #7\n", ["a red flower", "shop no. #7"]),
        (b"\xef\xbb\xbfa red flower\r\n", ["a red flower"]),  # with a byte order mark
    ],
)
def test_files_of_prompts_may_have_comments_and_a_byte_order_mark(content, prompts, tmp_path):
    (tmp_path / "prompts.txt").write_bytes(content)
    args = parse_options("", ["--prompts", str(tmp_path / "prompts.txt")])
    assert [spec.prompt for spec in plan(args, [], torch.device("cpu"))] == prompts


def test_prompts_that_are_no_text_get_one_line(tmp_path):
    (tmp_path / "prompts.txt").write_bytes(b"caf\xe9")
    result = run_main("txt2img.py", "--prompts", "prompts.txt", data=tmp_path)
    assert_one_line(result, 2, "prompts.txt is not text in UTF-8")
    (tmp_path / "prompts.txt").write_text("# none\n\n")
    assert_one_line(run_main("txt2img.py", "--from_file", "prompts.txt", data=tmp_path), 2, "holds no prompts")


def test_an_interrupted_job_goes_on_where_it_stopped(tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_text("a red flower\n\n  calm blue waves  \na green spiral\n")
    command = ["--prompts", "prompts.txt", "--outdir", "out", "--steps", 2, "--batch_size", 1, *TINY]
    painted: list[str] = []
    paint_batch = LatentDiffusionPainter.paint

    def paint_until_the_third(self: Any, specs: list[ImageSpec], *rest: Any) -> Any:
        if len(painted) == 2:
            painted.append("interrupted")
            raise KeyboardInterrupt
        painted.append(specs[0].prompt)
        return paint_batch(self, specs, *rest)

    monkeypatch.setattr(LatentDiffusionPainter, "paint", paint_until_the_third)
    first = run_main("txt2img.py", *command, data=tmp_path)
    assert first.returncode == 130 and "interrupted: finished images are kept; the same command resumes" in first.stderr
    second = run_main("txt2img.py", *command, data=tmp_path)
    assert second.returncode == 0 and "resuming: 2 of 3 images are finished" in second.stdout
    assert painted == ["a red flower", "calm blue waves", "interrupted", "a green spiral"]
    assert len(list((tmp_path / "out" / "samples").iterdir())) == 3
    assert not list((tmp_path / "out").glob(".unfinished*"))


# --- previews and progress -------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_preview_shows_the_image_to_come(tmp_path):
    images = [paint(tmp_path / str(seed), "--seed", seed, "--steps", 3, "--preview_every", 3)[0] for seed in (1, 2)]
    preview = np.asarray(Image.open(tmp_path / "1" / "preview.png").convert("RGB"), float)
    assert preview.shape == (128, 128, 3)
    small = [np.asarray(Image.fromarray(image).resize((128, 128), Image.Resampling.BOX), float) for image in images]
    own, other = (np.corrcoef(preview.ravel(), image.ravel())[0, 1] for image in small)
    assert own > 0.8 and other < 0.5
    (without,) = paint(tmp_path / "without", "--seed", 1, "--steps", 3)
    assert np.array_equal(without, images[0])


@pytest.fixture
def sit_down(tmp_path) -> Iterator[Callable[..., Any]]:
    """Start a script at a terminal; the process is killed at the end of the test."""
    pytest.importorskip("pty")  # not on Windows
    from tests.person import Person

    people: list[Person] = []

    def make(script: str, *arguments: object) -> Person:
        environment = os.environ | {"VOICETOIMG_DATA_DIR": str(tmp_path)}
        people.append(Person(environment, *map(str, arguments), script=config.REPO_DIR / script))
        return people[-1]

    yield make
    for person in people:
        person.process.kill()
        person.process.wait()


@pytest.mark.slow
def test_one_bar_for_the_job(sit_down):
    person = sit_down("txt2img.py", "--n_samples", 3, "--batch_size", 2, "--steps", 4, *TINY)
    assert person.sees_the_end() == 0
    bars = re.findall(r"(\d+)/(\d+) \[[^\r\n]*s/step", person.seen)
    assert bars[-1] == ("8", "8") and {total for _, total in bars} == {"8"}


def test_a_last_line_that_names_every_file_and_nothing_of_a_bar_in_a_log(tmp_path):
    arguments = ["--n_samples", 3, "--batch_size", 2, "--steps", 4, *TINY, "--preview_every", 2]
    result = run_main("txt2img.py", *arguments, data=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    written = set((tmp_path / "outputs").rglob("*.png"))
    last = result.stdout.splitlines()[-1]
    assert last.startswith("written: ") and set(map(Path, last.split()[1:])) == written and len(written) == 5
