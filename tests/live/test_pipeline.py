"""Whole runs with a display that records them; small scripts stand in place of the encoder and the generator."""

import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import config
import run_live_workflow
from live import card
from live.pipeline import EARLIER_KEPT, KEPT, Pipeline, Speed, Take
from live.run_files import RunFiles, claim_run_files
from tests.display import RecordingDisplay
from tests.programs import PATIENCE

VOICE = config.EXAMPLES_DIR / "voice_en.wav"
WORD = config.EXAMPLES_DIR / "word_de.ogg"
PROMPT = ["--prompt", "calm blue waves"]
CALIBRATION = "calibration: built-in"
WHITENED = "start noise: a voice, whitened"
PLACES = {"pitch": 91.0, "motion": 12.0, "rise": 50.0}
VOICE_LINE = "voice: high (91 of 100) and even (12)"
NOTE = "note: this model does not know, and leaves out: flurbog"
BEGIN = """
import json, os, pathlib, sys
def send(**content):
    print(json.dumps(content), flush=True)
"""
ENCODER = f"""{BEGIN}
send(ready=True)
for line in sys.stdin:
    request = json.loads(line)
    if "broken" in request["input_file"]:
        send(error=request["input_file"] + ": not a recording", said=[], warned=[])
        continue
    pathlib.Path(request["output_file"]).write_text(request["input_file"])
    said = ["{CALIBRATION}", "latent from " + request["input_file"]]
    send(latent=request["output_file"], said=said, warned=["warning: clipped"])
"""
GENERATOR = f"""{BEGIN}
send(progress=[1, 1])
send(ready=True)
for number, line in enumerate(sys.stdin):
    request = json.loads(line)
    folder = pathlib.Path(request.get("outdir", "."))
    for step in range(request["steps"]):
        send(progress=[step + 1, request["steps"]])
    send(preview="preview.png")
    image = str(folder / f"image_{{number}}.png")
    pathlib.Path(image).write_text(json.dumps(request))
    send(pictures=[image], voices=[{PLACES}], said=["{WHITENED}"], warned=["{NOTE}"])
"""
# in place of the loop of the generator: works, then does what is wrong with it
FAULTY = BEGIN + "send(ready=True)\nfor request in sys.stdin:\n    "


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let scripts and files of a run be in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    for name, file in (("TEMP_AUDIO_WAV", "temp_live_audio.wav"), ("LIVE_LATENT_PT", "live_latent.pt")):
        monkeypatch.setattr(config, name, tmp_path / file)
    for name, below in (("ROOT_DIR", ""), ("REPO_DIR", ""), ("SESSIONS_DIR", "sessions"), ("OUTPUT_DIR", "outputs")):
        monkeypatch.setattr(config, name, tmp_path / below)
    (tmp_path / "process_live_audio.py").write_text(ENCODER)
    (tmp_path / "txt2img.py").write_text(GENERATOR)
    return tmp_path


@pytest.fixture
def display() -> RecordingDisplay:
    return RecordingDisplay()


@pytest.fixture
def files() -> Iterator[RunFiles]:
    with claim_run_files() as files:
        yield files


@pytest.fixture
def pipeline_of(display: RecordingDisplay, files: RunFiles) -> Iterator[Callable[..., Pipeline]]:
    """Make pipelines from words of the command line; in the end no script is left."""
    made: list[Pipeline] = []

    def make(*words: str) -> Pipeline:
        prompt = () if "--prompts" in words else PROMPT
        made.append(Pipeline(run_live_workflow.parse([*prompt, *words]), display, files))
        return made[-1]

    yield make
    for pipeline in made:
        pipeline.abandon()


def run_files(pipeline: Pipeline, *recordings: Path) -> None:
    """Do as run_live_workflow.py with --input_file."""
    pipeline.start()
    pipeline.options.input_file = recordings
    run_live_workflow.use_files(pipeline.options, pipeline)


def own_take(files: RunFiles) -> Take:
    """Return a recording of the run's own."""
    path = files.new_recording()
    shutil.copy(VOICE, path)
    return Take(path, own=True, stopped=0.0, summary="recorded 2.0 s")


def test_a_display_is_told_everything(display, pipeline_of, folder):
    run_files(pipeline_of("--steps", "2"), VOICE)
    assert display.events == [
        ("status", "loading process_live_audio.py..."),
        ("status", ""),
        ("progress_done",),
        ("say", CALIBRATION),
        ("say", f"latent from {VOICE}"),
        ("warn", "warning: clipped"),
        ("status", "loading txt2img.py..."),
        ("status", ""),
        ("progress", 1, 2),
        ("progress", 2, 2),
        ("preview", Path("preview.png")),
        ("progress_done",),
        ("say", WHITENED),
        ("warn", NOTE),
        ("say", VOICE_LINE),
        ("image", Path("image_0.png")),
    ]
    assert (folder / "live_latent.pt").read_text() == str(VOICE)


def test_the_same_line_is_printed_once_and_a_failure_ends_nothing(display, pipeline_of):
    pipeline = pipeline_of()
    broken = Path("broken.wav")
    run_files(pipeline, VOICE, broken, WORD)
    assert pipeline.failed == 1
    assert [path.name for _, path in display.of("image")] == ["image_0.png", "image_1.png"]
    assert display.lines("say") == [
        f"1 of 3, {VOICE.name}",
        CALIBRATION,
        f"latent from {VOICE}",
        WHITENED,
        VOICE_LINE,
        "2 of 3, broken.wav",
        f"3 of 3, {WORD.name}",
        f"latent from {WORD}",
        VOICE_LINE,
    ]
    clipped, note, failure = display.lines("warn")
    assert (clipped, note) == ("warning: clipped", NOTE)
    assert re.fullmatch(r"[^:]*: process_live_audio.py: broken.wav: not a recording", failure)


@pytest.mark.parametrize("options", [["--no_standby"], ["--budget", "5"]], ids=["no standby", "budget"])
def test_warnings_are_printed_once_with_any_options(display, pipeline_of, options):
    run_files(pipeline_of(*options), VOICE, WORD)
    assert display.lines("warn").count(NOTE) == 1 and len(display.of("image")) == 2


def test_a_budget_becomes_steps_and_what_is_measured_leaves_no_trace(display, pipeline_of, folder):
    run_files(pipeline_of("--budget", "3000"), VOICE)
    steps, total = display.of("progress")[-1][1:]
    assert steps == total == len(display.of("progress")) == 12  # none of the images whose time was taken
    assert any(re.match(r"\d+\.\d s for 12 steps; \d", line) for line in display.lines("say"))
    assert [path.name for path in folder.glob("*.png")] == ["image_2.png"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import sys; sys.exit('no such\\ncolour')", "txt2img.py failed with status 1: colour"),
        ("import os; os.kill(os.getpid(), 9)", "txt2img.py was killed by signal 9"),
        (f"{FAULTY}send()", "txt2img.py ended without naming an image"),
        (f"{FAULTY}send(error='no colours')", "txt2img.py: no colours"),
        (
            f"{FAULTY}send(pictures=[5])",
            "a bug in this program, TypeError: .* \\(VOICETOIMG_TRACEBACK=1 shows where\\)",
        ),
    ],
    ids=["fails", "is killed", "does nothing", "says why", "is not understood"],
)
def test_a_script_that_does_not_work_is_named(display, pipeline_of, folder, script, message):
    (folder / "txt2img.py").write_text(script)
    pipeline = pipeline_of()
    run_files(pipeline, VOICE)
    assert pipeline.failed == 1 and not display.of("image")
    assert re.fullmatch(f".*: {re.escape(str(VOICE))}: {message}", display.lines("warn")[-1])


def test_tracebacks_are_shown_on_request(display, pipeline_of, folder, monkeypatch):
    monkeypatch.setenv("VOICETOIMG_TRACEBACK", "1")
    (folder / "txt2img.py").write_text(f"{FAULTY}send()")
    run_files(pipeline_of(), VOICE)
    *_, traceback, line = display.lines("warn")
    assert traceback.startswith("Traceback (most recent call last):\n")
    assert line.endswith(f": {VOICE}: txt2img.py ended without naming an image")


@pytest.mark.parametrize("options", [(), ("--budget", "5")], ids=["an image", "the measurement"])
def test_a_script_that_dies_once_is_started_again(display, pipeline_of, folder, options):
    die = "if not os.path.exists('died'): open('died', 'x'); os.kill(os.getpid(), 9)"
    (folder / "txt2img.py").write_text(f"{FAULTY}{die}\n    send(pictures=['image.png'])")
    pipeline = pipeline_of(*options)
    run_files(pipeline, VOICE)
    assert pipeline.failed == 0 and display.of("image") == [("image", Path("image.png"))]
    assert "txt2img.py was killed by signal 9; it is started again" in display.lines("warn")


def test_a_recording_waits_its_turn_and_ends_without_marker(display, pipeline_of, files, folder):
    pipeline = pipeline_of("--loop", "--steps", "1")
    pipeline.start()
    for _ in range(3):
        pipeline.submit(own_take(files))
    pipeline.finish()
    said = display.lines("say")
    assert said[0] == f"recorded 2.0 s: {files.wav}"
    assert any(re.match(r"(1 image|[23] images) still to be made", line) for line in said)
    assert len(display.of("image")) == 3 and "warning: clipped" not in display.lines("warn")
    assert files.wav.is_file() and not list(folder.glob(".*.unpainted"))


def test_a_recording_without_an_image_is_never_replaced(display, pipeline_of, files, folder):
    (folder / "txt2img.py").write_text(f"{FAULTY}send(error='no colours')")
    pipeline = pipeline_of("--loop")
    pipeline.start()
    for _ in range(2):
        pipeline.submit(own_take(files))
    pipeline.finish()
    kept = sorted(folder.glob("temp_live_audio_*.wav"))
    assert len(kept) == 2 and len(list(folder.glob("live_latent_*.pt"))) == 2
    for path in kept:
        assert any(line.endswith(f"no colours; {KEPT}: {path}") for line in display.lines("warn"))


def test_a_recording_of_a_run_before_is_kept(display, pipeline_of, files):
    pipeline = pipeline_of("--steps", "1")
    earlier = own_take(files)
    files.publish(earlier.path)
    pipeline.start()
    pipeline.submit(own_take(files))
    pipeline.finish()
    (line,) = (line for line in display.lines("say") if line.startswith(EARLIER_KEPT))
    assert Path(line.removeprefix(f"{EARLIER_KEPT}: ")).read_bytes() == VOICE.read_bytes()


def test_recordings_whose_images_wait_are_kept_when_the_run_is_abandoned(pipeline_of, files, folder):
    (folder / "txt2img.py").write_text(f"{FAULTY}sys.stdin.read()")
    pipeline = pipeline_of("--loop")
    pipeline.start()
    for _ in range(3):
        pipeline.submit(own_take(files))
    while not files.latent.is_file():
        time.sleep(0.01)
    kept = pipeline.abandon()
    assert len({*kept}) == 3 and all(re.search(r"audio_\d{4}-", path.name) for path in kept)
    assert {path.name for path in folder.glob(".temp*")} == {".temp_live_audio.lock"}


class PausingDisplay(RecordingDisplay):
    """A display that waits for `go_on` when it is told a certain line."""

    def __init__(self, line: str) -> None:
        super().__init__()
        self.line = line
        self.paused, self.go_on = threading.Event(), threading.Event()

    def _print(self, line: str) -> None:
        if line == self.line:
            self.paused.set()
            assert self.go_on.wait(PATIENCE)

    def say(self, line: str) -> None:
        super().say(line)
        self._print(line)

    def warn(self, line: str) -> None:
        super().warn(line)
        self._print(line)


@pytest.mark.parametrize(
    ("options", "line"), [(["--no_standby"], CALIBRATION), (["--budget", "5"], NOTE)], ids=["an image", "the speed"]
)
def test_no_script_is_started_after_the_run_was_abandoned(files, folder, options, line):
    """The other thread is between two requests when Ctrl-C comes: of two scripts, or of the two images measured."""
    for script, content in (("process_live_audio.py", ENCODER), ("txt2img.py", GENERATOR)):
        (folder / script).write_text(f"open('{script}.starts', 'a').write('x')\n{content}")
    display = PausingDisplay(line)
    pipeline = Pipeline(run_live_workflow.parse([*PROMPT, *options]), display, files)
    pipeline.start()
    pipeline.submit(own_take(files))
    assert display.paused.wait(PATIENCE)
    with ThreadPoolExecutor(1) as other:
        abandoned = other.submit(pipeline.abandon)
        while not pipeline.generator._closed:
            time.sleep(0.01)
        display.go_on.set()
        assert len(abandoned.result(timeout=PATIENCE)) == 1
    starts = [path.read_text() for path in folder.glob("*.starts")]
    # none twice; on a busy machine a script may have ended before its first line
    assert set(starts) == {"x"} and len(starts) <= (1 if "--no_standby" in options else 2)
    assert not display.of("image") and not pipeline.failed


def test_a_model_that_cannot_be_loaded_is_noticed_before_the_first_recording(pipeline_of, folder):
    (folder / "txt2img.py").write_text("import sys; sys.exit('broken')")
    pipeline = pipeline_of()
    pipeline.start()
    with pytest.raises(RuntimeError, match=r"^txt2img.py failed with status 1: broken$"):
        while True:
            pipeline.check()
            time.sleep(0.01)


def test_a_measurement_that_fails_is_an_error(pipeline_of, folder):
    (folder / "txt2img.py").write_text("import sys; sys.exit('broken')")
    pipeline = pipeline_of("--budget", "5")
    pipeline.start()
    with pytest.raises(RuntimeError, match=r"^txt2img.py failed with status 1: broken$"):
        pipeline.await_encoder()


def test_a_recording_that_cannot_be_encoded_leaves_the_latent_before_it(pipeline_of, files, folder):
    (folder / "process_live_audio.py").write_text(f"{FAULTY}send(error='no sound')")
    files.latent.write_text("of an earlier voice")
    pipeline = pipeline_of("--loop")
    pipeline.start()
    pipeline.submit(own_take(files))
    pipeline.finish()
    assert pipeline.failed == 1 and len(list(folder.glob("temp_live_audio_*.wav"))) == 1
    assert files.latent.read_text() == "of an earlier voice"


def test_how_to_paint_goes_to_the_generator(pipeline_of, folder):
    pipeline = pipeline_of("--negative_prompt", "red", "--voice_strength", "0.5", "--steps", "3")
    assert pipeline.options.painting == ["--negative_prompt=red", "--voice_strength=0.5"]
    run_files(pipeline, VOICE)
    request = json.loads((folder / "image_0.png").read_text())
    assert request == {"init_latents": str(folder / "live_latent.pt"), "steps": 3, "prompt": "calm blue waves"}


def test_prompts_take_turns(display, pipeline_of, folder):
    (folder / "prompts.txt").write_text("# tonight\na red flower\n\ncyan rings\n")
    pipeline = pipeline_of("--prompts", str(folder / "prompts.txt"))
    run_files(pipeline, VOICE, WORD, VOICE)
    requests = [json.loads((folder / f"image_{number}.png").read_text()) for number in range(3)]
    assert [request["prompt"] for request in requests] == ["a red flower", "cyan rings", "a red flower"]
    assert [line for line in display.lines("say") if " of 3, " in line] == [
        f"1 of 3, {VOICE.name}, prompt 1 of 2: a red flower",
        f"2 of 3, {WORD.name}, prompt 2 of 2: cyan rings",
        f"3 of 3, {VOICE.name}, prompt 1 of 2: a red flower",
    ]


def test_a_session_holds_all_but_a_discarded_recording(display, pipeline_of, files, folder):
    for words, sounds in ((["--keep"], 1), (["--keep", "--discard_audio"], 0)):
        pipeline = pipeline_of(*words)
        pipeline.start()
        pipeline.submit(own_take(files))
        pipeline.finish()
        (page,) = (line.removeprefix("session: ") for line in display.lines("say") if line.startswith("session: "))
        assert Path(page).read_text().count("<audio") == sounds
        assert files.wav.exists() == bool(sounds)
        display.events.clear()


def test_a_session_names_the_files_of_its_voices(pipeline_of, folder):
    run_files(pipeline_of("--keep"), VOICE)
    (listed,) = (folder / "sessions").rglob("session.json")
    (entry,) = json.loads(listed.read_text())["entries"]
    assert (entry["recording"], entry["places"]) == (VOICE.name, PLACES)


@pytest.mark.parametrize("options", [(), ("--no_trim",)])
def test_a_card_shows_what_is_used_of_a_voice_and_what_it_is_like(options, pipeline_of, monkeypatch):
    asked: list[tuple[Any, ...]] = []

    def save_card(*arguments):
        asked.append(arguments)
        return ""

    monkeypatch.setattr(card, "save_card", save_card)
    run_files(pipeline_of("--card", *options), VOICE)
    assert [arguments[-2:] for arguments in asked] == [(not options, PLACES)]


def test_a_session_has_the_title_that_was_asked_for(pipeline_of, folder):
    run_files(pipeline_of("--keep", "--title", "A night <of> voices"), VOICE)
    (page,) = (folder / "sessions").rglob("index.html")
    assert page.read_text().count("A night &lt;of&gt; voices") == 2  # of the window, and above the images


def test_what_fails_after_an_image_costs_no_image(display, pipeline_of):
    pipeline = pipeline_of("--card")
    run_files(pipeline, VOICE)  # the image is no PNG
    assert pipeline.failed == 0 and len(display.of("image")) == 1
    assert display.lines("warn")[-1].startswith("warning: ")


def test_steps_follow_the_speed():
    speed = Speed(fixed=0.5, per_step=0.1)
    assert speed.steps_within(2.0) == 13  # 1.9 s are planned for
    assert speed.steps_within(0.1) == 1 and speed.steps_within(100) == 50
    speed.update(10, 3.0)  # twice as slow as it was
    assert speed.seconds_for(10) == pytest.approx(3.0) and speed.steps_within(2.0) == 4


def test_a_font_that_lacks_on_cards_is_told_once(display, pipeline_of, monkeypatch):
    monkeypatch.setattr(card, "save_card", lambda *_: "花色")
    run_files(pipeline_of("--card"), VOICE, WORD)
    told = [line for line in display.lines("warn") if "font" in line]
    assert told == [
        "warning: no font on this computer has 花色, so the card lacks it; on Debian: sudo apt install fonts-noto-cjk"
    ]
