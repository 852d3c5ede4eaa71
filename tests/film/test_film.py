"""txt2img.py --film from latents along a recording to a film: small, of few frames, with the built-in model."""

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch

import cli
import film.making
import process_live_audio
import txt2img
from audio.motion import Motion, measure_motion
from audio.sound import AudioError
from film import command, encoder_process, film_file
from film.command import Film
from film.frames import FrameStore
from film.scenario import FilmSettings
from painting.image_spec import ImageSpec
from painting.ldm_painter import LatentDiffusionPainter
from painting.painter import PaintingNote
from tests.programs import TINY, Finished, paint, run_main
from tests.recordings import RATE, speech

SECONDS, WINDOW, HOP = 2.0, 1.0, 0.25
SMALL = (*TINY, "--steps", 2, "--scale", 1, "--fps", 5, "--batch_size", 3)  # ten frames in four batches


@pytest.fixture(scope="session")
def song(tmp_path_factory) -> Path:
    """A recording of two seconds; beside it song.pt, the latents along it."""
    folder = tmp_path_factory.mktemp("song")
    soundfile.write(folder / "song.wav", speech(SECONDS, RATE), RATE)
    arguments = [f"--input_file={folder / 'song.wav'}", f"--output_file={folder / 'song.pt'}"]
    assert process_live_audio.main([*arguments, f"--windows={WINDOW}", f"--hop={HOP}"]) == 0
    return folder / "song.wav"


def run(song: Path, outdir: Path, *arguments: object) -> Finished:
    """Make a small film in this process."""
    options = ("--init_latents", song.with_suffix(".pt"), "--film", song, *SMALL, "--outdir", outdir, *arguments)
    return run_main("txt2img.py", *options, data=outdir.parent)


def frames_of(path: Path) -> np.ndarray:
    """Decode a film: frames [F, H, W, 3]."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture
def kept(monkeypatch) -> list[np.ndarray]:
    """The frames of the films that a test makes, as they are before they are encoded."""
    frames: list[np.ndarray] = []
    read = FrameStore.frames

    def noted(self):
        for frame in read(self):
            frames.append(frame)
            yield frame

    monkeypatch.setattr(FrameStore, "frames", noted)
    return frames


def test_a_film_has_the_frames_the_sound_and_what_made_it(song, tmp_path):
    result = run(song, tmp_path / "out", "--prompt", "a golden spiral on purple")
    assert result.returncode == 0, result.stderr
    path = tmp_path / "out" / "films" / "song.mp4"
    assert f"film: {path}\n" in result.stdout and list(path.parent.iterdir()) == [path]
    assert re.search(r"film: 10 frames of 64x64, 5 a second; \d+\.\d\d s a frame: .* for the 7 that are left, and 1 MB",
                     result.stdout)  # fmt: skip
    assert "drawn: spiral, gold, purple\n" in result.stdout
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert (video.frames, video.average_rate, video.width, video.height) == (10, 5, 64, 64)
        assert float(sound.duration or 0) * float(sound.time_base or 0) == pytest.approx(SECONDS, abs=0.05)
        record = json.loads(container.metadata["comment"])
    assert record["picture"]["prompt"] == "a golden spiral on purple" and record["picture"]["seed"] == 42
    assert record["film"]["cues"] == [[0.0, "a golden spiral on purple"]] and record["film"]["smooth"] == 1.5
    assert len(record["made_from"]["model_sha256"]) == len(record["made_from"]["latents_sha256"]) == 64
    again = run(song, tmp_path / "out", "--prompt", "a golden spiral on purple")
    assert f"film: {path.with_name('song_2.mp4')}\n" in again.stdout, "nothing is overwritten"
    np.testing.assert_array_equal(frames_of(path), frames_of(path.with_name("song_2.mp4")))


@pytest.mark.slow
def test_without_smoothing_a_frame_is_the_image_of_its_window(song, tmp_path, kept):
    """With four frames a second frame 3 lies at 0.75 s, the middle of the window that begins at 0.25 s."""
    alike = ("--precision", "full")  # in bfloat16, rounding would be seen
    result = run(song, tmp_path / "out", "--smooth", 0, "--fps", 4, "--prompt", "a golden spiral on purple", *alike)
    assert result.returncode == 0, result.stderr
    for frame, row in ((2, 0), (3, 1), (5, 3)):
        options = ("--init_latents", song.with_suffix(".pt"), "--subject_idx", row, *TINY, "--steps", 2, "--scale", 1)
        (still,) = paint(tmp_path / f"still{row}", *options, *alike)
        assert np.abs(still.astype(int) - kept[frame]).max() <= 4, "to rounding: another number of images is sampled"


@pytest.mark.slow
def test_an_interrupted_film_goes_on(song, tmp_path, monkeypatch, kept):
    """After each batch once: the frames are the same bytes, and none is painted twice."""
    assert run(song, tmp_path / "whole").returncode == 0
    whole = list(kept)
    painted: list[int] = []
    ends = iter((KeyboardInterrupt(), SystemExit(9), KeyboardInterrupt()))
    paint_batch = LatentDiffusionPainter.paint_transitions

    def one_batch(self, transitions, x_T, on_step=None):
        if len(painted) % 2:
            painted.append(0)
            raise next(ends)
        images = paint_batch(self, transitions, x_T, on_step)
        painted.append(len(images))
        return images

    kept.clear()
    monkeypatch.setattr(LatentDiffusionPainter, "paint_transitions", one_batch)
    results = [run(song, tmp_path / "out") for _ in range(4)]
    assert [result.returncode for result in results] == [130, 9, 130, 0]
    assert "interrupted: painted frames are kept; the same command resumes" in results[0].stderr
    assert "resuming: 9 of 10 frames are painted" in results[3].stdout
    np.testing.assert_array_equal(kept, whole)
    assert [count for count in painted if count] == [3, 3, 3, 1]
    assert [path.name for path in (tmp_path / "out" / "films").iterdir()] == ["song.mp4"]


def test_what_was_planned_is_planned_once(tmp_path, monkeypatch):
    """Planning an hour takes minutes; a damaged plan is made again."""
    planned = []

    class Planned:
        chosen = 0

        def plan(self) -> dict[str, np.ndarray]:
            return {"chosen": np.array(7)}

        def recall(self, plan) -> None:
            self.chosen = int(plan["chosen"])

    monkeypatch.setattr(film.making, "prepare", lambda scenario, motion: planned.append(scenario))
    run_plan: Any = film.making.plan
    path = tmp_path / "plan.npz"
    for damage, runs in ((None, 1), (None, 1), (b"", 2), (b"PK\3\4 torn", 3)):
        if damage is not None:
            path.write_bytes(damage)
        run_plan(Planned(), None, path)
        assert len(planned) == runs
    scenario = Planned()
    run_plan(scenario, None, path)
    assert scenario.chosen == 7 and len(planned) == 3


@pytest.mark.slow
def test_another_command_has_frames_of_its_own(song, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("no encoder")

    monkeypatch.setattr(film.making, "FilmWriter", fail)  # every run fails when all frames are painted
    for more in ((), ("--seed", 1), ("--smooth", 1), ("--loop_film",), ("--prompt", "waves"), ("--steps", 3)):
        result = run(song, tmp_path / "out", *more)
        assert result.returncode != 0 and "resuming" not in result.stdout
    assert len(list((tmp_path / "out" / "films").iterdir())) == 6


def test_what_a_long_film_takes_is_said_before_it_is_planned(song, tmp_path, monkeypatch):
    def plan(*_: object) -> None:
        raise RuntimeError("planning")

    monkeypatch.setattr(film.making, "LONG", 10)
    monkeypatch.setattr(film.making, "plan", plan)
    result = run(song, tmp_path / "out")
    assert result.returncode == 1 and "planning" in result.stderr
    assert re.search(r"film: 10 frames .* for the 10 that are left, and 1 MB", result.stdout)


@pytest.mark.slow
def test_prompts_change_on_cue(song, tmp_path, kept):
    cues = tmp_path / "cues.txt"
    cues.write_text("# two prompts\n0:00 a golden spiral on purple\n0:01 calm blue and turquoise waves\n")
    result = run(song, tmp_path / "out", "--prompts", cues, "--smooth", 0.4, "--steps", 4)
    assert result.returncode == 0, result.stderr
    assert "a golden spiral on purple: drawn: " in result.stdout
    blueness = [frame[..., 2].mean() - frame[..., 0].mean() for frame in kept]
    assert max(blueness[:6]) < 0 < min(blueness[7:])
    assert max(blueness[:6]) < blueness[6] < min(blueness[7:]), "0.2 s after the cue half of each is there"


def test_prompts_that_come_after_the_end_are_noted_in_each_film(song, tmp_path, capsys):
    cues = tmp_path / "cues.txt"
    cues.write_text("0:00 spirals\n0:01.9 waves\n0:02 flowers\n1:02:03.5 stars\n")
    args = txt2img.parse(["--init_latents", str(song.with_suffix(".pt")), "--film", str(song), "--prompts", str(cues)])
    with warnings.catch_warnings():
        cli.show_warnings()
        for _ in range(2):  # as in standby
            Film(args, torch.device("cpu"))
            assert capsys.readouterr().err.splitlines() == [
                "note: the film ends at 0:02, before the prompt at 0:02 begins: flowers",
                "note: the film ends at 0:02, before the prompt at 1:02:03.5 begins: stars",
            ]


@pytest.mark.slow
def test_formats_pulses_circles_and_drafts(song, tmp_path):
    result = run(song, tmp_path / "out", "--film_format", "webm", "--loop_film", "--pulse", 1, "--no_metadata")
    assert result.returncode == 0, result.stderr
    with av.open(str(tmp_path / "out" / "films" / "song.webm")) as container:
        assert container.streams.video[0].codec_context.name == "vp9" and "COMMENT" not in container.metadata
    args = txt2img.parse(["--init_latents", str(song.with_suffix(".pt")), "--film", str(song), "--draft"])
    assert (args.fps, args.steps) == (8, 1) and Film(args, torch.device("cpu")).settings.draft
    args = txt2img.parse(["--init_latents", str(song.with_suffix(".pt")), "--film", str(song), "--draft", "--steps=9"])
    assert (args.fps, args.steps) == (8, 9)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--fps", 0), "--fps: 0 is not a whole number from 1 to 60"),
        (("--film_format", "avi"), "invalid choice: 'avi'"),
        (("--n_samples", 2), "--n_samples is not for films: leave it out"),
        (("--standby",), "--standby waits for requests; give --film in a request, not at the start"),
    ],
)
def test_wrong_options_are_one_line(song, tmp_path, arguments, problem):
    result = run(song, tmp_path / "out", *arguments)
    assert result.returncode == 2 and problem in result.stderr and len(result.stderr.splitlines()) == 1


def test_wrong_files_are_one_line(song, voices, tmp_path):
    other = tmp_path / "other.wav"
    soundfile.write(other, speech(1.0, RATE), RATE)
    cues = tmp_path / "cues.txt"
    cues.write_text("0:00 a\nlater b\n")
    for arguments, problem in (
        (("--film", other), f"{song.with_suffix('.pt')} are of another recording; name that one"),
        (("--init_latents", voices), "2 latents without times"),
        (("--prompts", cues), "--prompts: the line 'later b' does not begin with a time"),
    ):
        result = run(song, tmp_path / "out", *arguments)
        assert result.returncode == 2 and problem in result.stderr and len(result.stderr.splitlines()) == 1
    result = run_main("txt2img.py", "--film", song, data=tmp_path)
    assert result.returncode == 2 and "--film needs the latents along the recording" in result.stderr
    result = run_main("txt2img.py", "--smooth", 2, data=tmp_path)
    assert result.returncode == 2 and "--smooth is for --film: leave it out" in result.stderr


@pytest.mark.parametrize("encoder", ["libx264", "aac"])
def test_a_missing_encoder_is_known_before_frames_are_painted(encoder, song, tmp_path, monkeypatch):
    source = Path(encoder_process.__file__).read_text().replace(f'"{encoder}"', '"libnone"')
    (tmp_path / "lacking.py").write_text(source)
    monkeypatch.setattr(encoder_process, "__file__", str(tmp_path / "lacking.py"))
    result = run(song, tmp_path / "out")
    assert result.returncode == 1 and "has no encoder libnone for song.mp4" in result.stderr
    assert "film: " not in result.stdout


def test_a_missing_library_is_known_before_files_are_read(song, tmp_path, monkeypatch):
    monkeypatch.setattr(film_file.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "broken.pt").write_bytes(b"x")
    result = run(song, tmp_path / "out", "--init_latents", tmp_path / "broken.pt")
    assert result.returncode == 1 and "a film needs PyAV, which is not installed: pip install av" in result.stderr


def test_the_pace_follows_the_channel_that_was_heard(tmp_path, monkeypatch):
    voice = speech(SECONDS, RATE)
    recording = tmp_path / "two.wav"
    soundfile.write(recording, np.stack([voice, voice[::-1]], axis=1), RATE)
    measured: list[Motion] = []

    def measure(path: Path, channel: int | None) -> Motion:
        measured.append(measure_motion(path, channel=channel))
        raise AudioError("measured")

    monkeypatch.setattr(command, "measure_motion", measure)
    for channel in ([], ["--channel=2"]):
        latents = f"--output_file={recording.with_suffix('.pt')}"
        assert process_live_audio.main([f"--input_file={recording}", latents, "--windows=1", *channel]) == 0
        assert "measured" in run(recording, tmp_path / "out").stderr
    expected = [measure_motion(recording), measure_motion(recording, channel=2)]
    assert all((found.flux == wanted.flux).all() for found, wanted in zip(measured, expected, strict=True))
    assert not np.array_equal(measured[0].flux, measured[1].flux)


@pytest.mark.parametrize(("workers", "left"), [(1, "6.0 s"), (2, "3.0 s"), (9, "1.5 s")])
def test_what_a_film_takes_is_divided_by_the_workers(workers, left, tmp_path, monkeypatch):
    class Workers:
        at_once = workers

        def __call__(self, jobs: object, on_step: object, batches: int) -> Iterator[np.ndarray]:
            yield from np.zeros((batches, 3, 8, 8, 3), np.uint8)

    settings = FilmSettings(ImageSpec(), (), 6, SECONDS)
    store = FrameStore(tmp_path, "a", "", settings.frames, 3)
    monkeypatch.setattr(film.making, "time", SimpleNamespace(monotonic=iter((0.0, 2.0)).__next__))
    said: list[str] = []
    scenario: Any = SimpleNamespace(settings=settings, job=lambda frames: None)
    film.making.paint(scenario, store, lambda step: None, said.append, Workers())
    assert len(said) == 1 and f"a frame: {left} for the 9 that are left" in said[0]


@pytest.mark.parametrize(("fps", "format"), [(60, "mp4"), (60, "webm"), (1, "webm")])
def test_one_frame_is_enough_to_try_the_encoder(fps, format, song, tmp_path):
    """At 60 frames a second it has less sound than one packet."""
    settings = FilmSettings(ImageSpec(width=64, height=64), (), fps, SECONDS)
    film.making.try_encoder(tmp_path / f"a.{format}", settings, song)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_before_it_is_full(song, tmp_path, monkeypatch):
    monkeypatch.setattr(film.making.shutil, "disk_usage", lambda folder: film.making.shutil._ntuple_diskusage(9, 9, 1))
    result = run(song, tmp_path / "out")
    assert result.returncode == 1 and "the frames need 1 MB, and 1 MB are free" in result.stderr


@pytest.mark.slow
def test_a_model_that_cannot_pass_between_prompts_changes_at_once(song, tmp_path, monkeypatch, kept):
    for name in ("paint_transitions", "outlines", "shape_scores"):
        assert hasattr(LatentDiffusionPainter, name)

    class Plain:
        """A painter with the methods that every painter has."""

        def __init__(self, painter: Any) -> None:
            self.painter, self.precision, self.defaults = painter, painter.precision, painter.defaults
            self.latent_shape, self.describe, self.paint = painter.latent_shape, painter.describe, painter.paint

    load = txt2img.painter_of
    monkeypatch.setattr(txt2img, "painter_of", lambda *which: Plain(load(*which)))
    cues = tmp_path / "cues.txt"
    cues.write_text("0:00 a golden spiral on purple\n0:01 calm blue and turquoise waves\n")
    result = run(song, tmp_path / "out", "--prompts", cues)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("the image changes at once where one prompt follows another") == 1
    assert issubclass(PaintingNote, UserWarning) and len(kept) == 10
