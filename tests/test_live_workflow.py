"""The live workflow as a person meets it: a terminal, a microphone, and everything that can go wrong.

These are real processes and real sound. `tests/live` tests most of the same in this process, without a microphone.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from PIL import Image

import config
import painting.options
import run_live_workflow
from live.keyboard import ONE_PRESS
from live.pipeline import EARLIER_KEPT, KEPT
from painting.options import parse_options
from tests import forked, sound
from tests.person import Person
from tests.programs import PATIENCE, is_running, run_main, wait_until

VOICE = config.EXAMPLES_DIR / "voice_en.wav"
WORD = config.EXAMPLES_DIR / "word_de.ogg"
LICENCE = config.REPO_DIR / "LICENSE"
WORKFLOW = config.REPO_DIR / "run_live_workflow.py"
PROMPT = ("--prompt", "calm blue waves")
QUICK = (*PROMPT, "--steps", "1")
READY = "Press ENTER to start recording...\r\n"
RECORDING = "Recording... Press ENTER to stop.\r\n"
# In place of a script of the run: is ready at once, and does something else at each request. Where a test is about
# recording, nothing is lost by it but the time to load torch and the model.
SCRIPT = """
import json, os, pathlib, signal, sys, time
print(json.dumps({"ready": True}), flush=True)
for request in sys.stdin:
    {answer}
"""
HANGS = SCRIPT.replace("{answer}", "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)")
WAITS = SCRIPT.replace("{answer}", "sys.stdin.read()")  # until the program that started it has ended
ENCODES = SCRIPT.replace(
    "{answer}",
    """
    asked = json.loads(request)
    content = pathlib.Path(asked["input_file"]).read_bytes()
    pathlib.Path(asked["output_file"]).write_bytes(content[:100_000])
    print(json.dumps({"said": ["latent (1, 4, 32, 32)"]}), flush=True)
""",
)
PAINTS = SCRIPT.replace(
    "{answer}",
    """
    path = pathlib.Path(os.environ["VOICETOIMG_DATA_DIR"], "outputs", f"{os.getpid()}.png")
    path.parent.mkdir(exist_ok=True)
    from PIL import Image
    Image.new("RGB", (8, 8)).save(path)
    print(json.dumps({"pictures": [str(path)]}), flush=True)
""",
)


@pytest.fixture
def sit_down() -> Iterator[Callable[..., Person]]:
    """Make a `Person`; their program is killed if it still runs at the end of the test."""
    people: list[Person] = []

    def make(*arguments, script: Path = WORKFLOW, **options) -> Person:
        people.append(Person(*arguments, script=script, **options))
        return people[-1]

    yield make
    for person in people:
        person.process.kill()
        person.process.wait()


@pytest.fixture(scope="module")
def recording_only(tmp_path_factory) -> Path:
    """Return a workflow whose scripts are ready at once and do nothing."""
    return tree_with(tmp_path_factory.mktemp("waits") / "tree", WAITS, WAITS)


@pytest.fixture(scope="module")
def without_model(tmp_path_factory) -> Path:
    """Return a workflow whose scripts write something in place of latents and images."""
    return tree_with(tmp_path_factory.mktemp("paints") / "tree", PAINTS, ENCODES)


@pytest.fixture
def with_microphone(microphone, tmp_path) -> dict[str, str]:
    return microphone.environment | {"VOICETOIMG_DATA_DIR": str(tmp_path)}


@pytest.fixture
def without_microphone(tmp_path) -> dict[str, str]:
    home = tmp_path / "home"
    home.mkdir()
    return sound.silent_environment(home) | {"VOICETOIMG_DATA_DIR": str(tmp_path)}


def run(
    environment: dict[str, str],
    *arguments: str,
    script: Path = WORKFLOW,
    prompt: tuple[str, ...] = PROMPT,
    text: str = "",
) -> subprocess.CompletedProcess:
    return forked.run([str(script), *prompt, *arguments], environment, config.REPO_DIR, PATIENCE, text)


def error_line(finished: subprocess.CompletedProcess) -> str:
    """Return the only line on stderr of a program that failed as it should."""
    assert finished.returncode == 1, finished
    (line,) = finished.stderr.splitlines()
    return line


def tree_with(folder: Path, txt2img: str = WAITS, process_live_audio: str = "") -> Path:
    """Return the workflow of a tree that has the given texts as its scripts."""
    folder.mkdir()
    for path in config.REPO_DIR.glob("*.py"):
        shutil.copy(path, folder)
    for name in ("audio", "live", "models", "painting"):
        (folder / name).symlink_to(config.REPO_DIR / name)
    (folder / "txt2img.py").write_text(txt2img)
    if process_live_audio:
        (folder / "process_live_audio.py").write_text(process_live_audio)
    return folder / "run_live_workflow.py"


def begin(person: Person, microphone: sound.SoundServer, voice: Path) -> None:
    """Press ENTER and speak."""
    person.presses("\n")
    person.waits_for(RECORDING)
    microphone.speak(voice)


def speak(person: Person, microphone: sound.SoundServer, voice: Path) -> None:
    """Press ENTER, speak, and press ENTER, twice by accident."""
    begin(person, microphone, voice)
    person.presses("\n\n")


def path_after(person: Person, text: str) -> Path:
    """Return the path after "text: " on the next line that has it."""
    person.waits_for(f"{text}: ")
    return Path(person.waits_for("\r\n").rstrip())


def images_in(folder: Path) -> list[Path]:
    return sorted((folder / "outputs" / "txt2img-samples" / "samples").glob("*.png"))


def children(person: Person) -> dict[str, int]:
    """Return the process numbers of the scripts that a person's program has started, by name."""
    number = person.process.pid
    found: dict[str, int] = {}
    for child in Path(f"/proc/{number}/task/{number}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
        forked_as = Path(f"/proc/{child}/comm").read_text().strip()
        names = {Path(word).name for word in words if word.endswith(".py")} - {Path(forked.__file__).name}
        names |= {name for name in ("txt2img.py", "process_live_audio.py") if name[:15] == forked_as}
        found |= {name: int(child) for name in names}
    return found


# --- the command line -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "", "--mic_test"], "--prompt and --mic_test cannot be combined"),
        (["--prompts", str(VOICE)], "is not text in UTF-8"),
        (["--prompt", "x", "--prompts", str(LICENCE)], "not allowed with argument --prompt"),
        (["--list_mics", "--mic_test"], "--list_mics and --mic_test cannot be combined"),
        (["--mic_test", "--input_file", str(WORD)], "--mic_test needs the microphone, which --input_file replaces"),
        (["--prompt", "calm", "blue"], "unrecognized arguments: blue; put a text of several words in quotes (see"),
        (["--prompt", "x", "--budget", "5", "--no_standby"], "leave one of them out"),
        (
            ["--prompt", "x", "--title", "A night"],
            "--title is for the web page of --keep or --session: add one of them",
        ),
        (["--prompt", "x", "--budget", "5", "--steps", "20"], "leave one of them out"),
        (["--size", "512x50"], "50 is not a whole number from 64 to 2048"),
        (["--preview_every", "6", "--steps", "5"], "--preview_every 6 is never reached in 5 steps"),
        (["--eta", "0.5"], "add --sampler ddim"),
        (["--prompt", "x", "--x_T", "raw", "--voice_strength", "0.5"], "leave one of them out"),
        (["--prompt", "x", "--model", "chladni", "--ckpt", str(VOICE)], "give one of them"),
        (["--prompt", "x", "--model", "nowhere"], "there is no"),
        (["--prompt", "x", "--scale", "1", "--negative_prompt", "red"], "leave one of them out"),
    ],
)
def test_wrong_command_lines_get_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        run_live_workflow.parse(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and message in line


def test_images_have_the_same_options_as_those_of_txt2img():
    """With the same defaults, ranges, choices and help texts; some are decided for each voice."""
    live, alone = ({action.dest: action for action in parser._actions} for parser in
                   (run_live_workflow.build_parser(), painting.options.build_parser("")))  # fmt: skip
    other = {"replay", "init_latents", "mix", "walk", "weights", "frames", "subject_idx", "n_samples", "n_iter"}
    other |= {"save_x_T", "batch_size", "skip_grid", "standby", "dask_scheduler"}
    other |= {"film", "fps", "smooth", "pulse", "loop_film", "draft", "film_format"}
    assert alone.keys() - live.keys() == other
    for name in live.keys() & alone.keys() - {"help", "version"}:
        for what in ("option_strings", "default", "choices", "help", "metavar", "nargs"):
            assert getattr(live[name], what) == getattr(alone[name], what), name


@pytest.mark.parametrize("prompt", ["", " \t", None])
def test_a_prompt_that_is_empty_or_not_given_is_that_of_txt2img(prompt):
    words = [] if prompt is None else ["--prompt", prompt]
    assert run_live_workflow.parse(words).prompts == [parse_options("", words).prompt]


def test_how_to_paint_becomes_words_of_txt2img():
    words = ["--size", "512x256", "--guidance_interval", "0.1", "0.9", "--no_metadata", "--plms", "--outdir", "out"]
    args = parse_options("", run_live_workflow.parse(words).painting)
    assert (args.W, args.H, args.guidance_interval, args.sampler) == (512, 256, [0.1, 0.9], "plms")
    assert args.no_metadata and args.outdir == Path("out")


# --- recording -------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_person_is_asked_again_until_there_is_a_voice(
    sit_down, microphone, with_microphone, recording_only, tmp_path
):
    recording = tmp_path / "temp_live_audio.wav"
    recording.write_text("older")
    person = sit_down(with_microphone, *PROMPT, script=recording_only)
    person.waits_for(READY)
    for _ in range(5):  # a key that is held down
        person.presses("\n")
        time.sleep(0.03)
    person.waits_for(RECORDING)
    time.sleep(1.0)
    person.presses("\n")
    assert READY not in person.waits_for("No sound recorded.")
    assert recording.read_text() == "older"
    person.waits_for(READY)
    time.sleep(ONE_PRESS)  # in which ENTER would be taken for the same press
    speak(person, microphone, WORD)
    person.waits_for("recorded ")
    person.presses("\x03")
    assert person.sees_the_end() == 130
    # where the scripts answered before Ctrl-C, the recording is in its place, and nothing is said of it
    (kept,) = tmp_path.glob("temp_live_audio*.wav")
    assert sound.likeness(kept, WORD) >= 0.95
    assert f"at {soundfile.info(kept).samplerate} Hz" in person.seen


@pytest.mark.slow
def test_a_voice_becomes_an_image(sit_down, microphone, with_microphone, tmp_path):
    person = sit_down(with_microphone, *QUICK, columns=30)
    person.waits_for(READY)
    speak(person, microphone, VOICE)
    assert person.sees_the_end() == 0
    (path,) = images_in(tmp_path)
    assert re.search(rf"image: {re.escape(str(path))} \(\d+\.\d s from sound to image\)\r\n$", person.seen)
    assert "next: " not in person.seen
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"temp_live_audio.wav", "live_latent.pt", "outputs"}
    with Image.open(path) as image:
        assert sum(map(len, image.info.values())) < 3000  # words, numbers and hashes: nothing to make a voice of
    meter = re.findall(r"\r( *\d+\.\d s +-?\d[^\r]*)", person.seen)
    assert len(meter) > 20 and all(len(line) < 30 for line in meter)


@pytest.mark.slow
def test_lines_where_there_is_no_terminal_and_seconds_where_there_is_nobody(
    microphone, with_microphone, without_model, tmp_path
):
    command = [sys.executable, str(without_model), *QUICK, "--seconds", "2.5", "--discard_audio"]
    with subprocess.Popen(
        command, env=with_microphone, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        while process.stdout.readline() != "Recording... Press ENTER to stop.\n":
            assert process.poll() is None
        microphone.speak(WORD)
        out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "\r" not in out and re.search(r"^2 s: level -\d+ dBFS, peak -\d+ dBFS$", out, re.MULTILINE)
    (seconds,) = re.findall(r"^recorded (\S+) s", out, re.MULTILINE)
    assert float(seconds) >= 2.5 and "image: " in out
    assert {path.name for path in tmp_path.iterdir()} == {"live_latent.pt", "outputs"}


@pytest.mark.slow
def test_microphones_are_listed_tested_and_chosen(sit_down, microphone, with_microphone, recording_only, tmp_path):
    listed = run(with_microphone, "--list_mics", prompt=()).stdout.splitlines()
    (default,) = (line for line in listed if line.endswith("default"))
    number, name = default.split()[:2]
    person = sit_down(with_microphone, "--mic_test", "--seconds", "2", "--mic", name.upper())
    person.waits_for("speak for 2 s")
    microphone.speak(WORD)
    person.waits_for(": the loudest was ")
    assert person.sees_the_end() == 0
    read_only = with_microphone | {"VOICETOIMG_DATA_DIR": "/proc/nowhere"}
    silent = run(read_only, "--mic_test", "--seconds", "0.5", "--mic", number, prompt=())
    assert silent.stdout.splitlines()[-1].startswith("silent: ")
    assert silent.returncode == 1 and list(tmp_path.iterdir()) == []
    for wrong in ("nothing of the kind", "99"):
        line = error_line(run(with_microphone, "--mic", wrong, script=recording_only))
        assert f"there is no microphone {wrong} (devices: " in line and name in line


@pytest.mark.slow
def test_ctrl_c_keeps_the_recording_in_progress(sit_down, microphone, with_microphone, tmp_path):
    person = sit_down(with_microphone, *PROMPT)
    person.waits_for(READY)
    begin(person, microphone, WORD)
    scripts = children(person)
    assert scripts.keys() == {"process_live_audio.py", "txt2img.py"}
    for _ in range(3):  # once would do
        person.presses("\x03")
        time.sleep(0.05)
    assert person.sees_the_end() == 130
    assert f"{KEPT}: {tmp_path / 'temp_live_audio.wav'}" in person.seen
    assert "Traceback" not in person.seen
    assert sound.likeness(tmp_path / "temp_live_audio.wav", WORD) >= 0.95
    assert {path.name for path in tmp_path.iterdir()} == {"temp_live_audio.wav", ".temp_live_audio.unpainted"}
    assert not any(map(is_running, scripts.values()))


def test_ctrl_c_before_the_recording_leaves_an_older_one(sit_down, with_microphone, recording_only, tmp_path):
    older = tmp_path / "temp_live_audio.wav"
    older.write_text("older")
    person = sit_down(with_microphone, *PROMPT, script=recording_only)
    person.waits_for(READY)
    person.presses("\x03")
    assert person.sees_the_end() == 130
    assert KEPT not in person.seen and older.read_text() == "older"


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_its_recording_and_no_script(
    sit_down, microphone, with_microphone, recording_only, tmp_path
):
    person = sit_down(with_microphone, *PROMPT)
    person.waits_for(READY)
    begin(person, microphone, WORD)
    scripts = children(person)
    person.process.kill()
    wait_until(lambda: not any(map(is_running, scripts.values())))
    again = sit_down(with_microphone, *PROMPT, script=recording_only)
    kept = path_after(again, EARLIER_KEPT)
    assert sound.likeness(kept, WORD) >= 0.95
    again.waits_for(READY)
    again.presses("\x03")
    assert again.sees_the_end() == 130
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]


@pytest.mark.slow
def test_a_recording_whose_run_is_killed_while_it_waits_is_not_replaced(
    sit_down, microphone, with_microphone, tmp_path
):
    workflow = tree_with(tmp_path / "tree", WAITS, ENCODES)
    for voice in (VOICE, WORD):
        person = sit_down(with_microphone, *PROMPT, script=workflow)
        person.waits_for(READY)
        speak(person, microphone, voice)
        person.waits_for(f"dBFS: {tmp_path / 'temp_live_audio.wav'}")
        if voice == WORD:
            kept = path_after(person, EARLIER_KEPT)
        person.waits_for("latent (1, 4, 32, 32)")
        person.process.kill()
    assert sound.likeness(kept, VOICE) >= 0.95
    assert sound.likeness(tmp_path / "temp_live_audio.wav", WORD) >= 0.95


@pytest.mark.slow
def test_a_microphone_that_goes_away_does_not_end_the_run(sit_down, sound_system, without_model, tmp_path):
    with sound.sound_server(hums=True) as server:
        environment = server.environment | {"VOICETOIMG_DATA_DIR": str(tmp_path)}
        person = sit_down(environment, *QUICK, "--loop", script=without_model)
        person.waits_for(READY)
        begin(person, server, WORD)
    person.waits_for("warning: the microphone went away; the recording up to there is used")
    assert "Expression" not in person.seen  # what PortAudio and ALSA say of it
    person.waits_for("recorded ")
    person.waits_for(READY)
    time.sleep(ONE_PRESS)
    person.presses("\n")
    person.waits_for("Please record again.")
    person.waits_for(READY)
    person.presses("q\n")
    assert person.sees_the_end() == 0
    assert "image: " in person.seen


@pytest.mark.slow
def test_two_runs_in_one_folder(sit_down, microphone, with_microphone, without_model, tmp_path):
    first = sit_down(with_microphone, *QUICK, script=without_model)
    first.waits_for(READY)
    second = sit_down(with_microphone, *QUICK, script=without_model)
    second.waits_for("another run is active in this folder")
    second.waits_for(READY)
    speak(second, microphone, WORD)
    assert second.sees_the_end() == 0
    speak(first, microphone, VOICE)
    assert first.sees_the_end() == 0
    assert sound.likeness(tmp_path / "temp_live_audio.wav", VOICE) >= 0.95
    assert sound.likeness(tmp_path / "temp_live_audio_2.wav", WORD) >= 0.95
    assert (tmp_path / "live_latent.pt").read_bytes() != (tmp_path / "live_latent_2.pt").read_bytes()
    assert len(list(tmp_path.rglob("*.png"))) == 2 and not list(tmp_path.glob(".*"))


# --- a run of many images -------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_many_recordings_in_one_run(sit_down, microphone, with_microphone, tmp_path):
    viewer = tmp_path / "bin" / "xdg-open"
    viewer.parent.mkdir()
    viewer.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path / "viewed"}\n')
    viewer.chmod(0o755)
    environment = with_microphone | {"PATH": f"{viewer.parent}:{os.environ['PATH']}", "DISPLAY": ":9"}
    person = sit_down(environment, *PROMPT, "--budget", "0.4", "--loop", "--keep", "--card", "--open")
    memory = []
    for number in range(1, 5):
        person.waits_for(READY)
        speak(person, microphone, WORD)
        person.waits_until(lambda: len(images_in(tmp_path)) == number)  # noqa: B023
        time.sleep(ONE_PRESS)
        memory.append(sum(map(resident, (person.process.pid, *children(person).values()))))
        if number == 2:
            os.kill(children(person)["txt2img.py"], signal.SIGKILL)
    scripts = children(person)
    person.presses("q\n")
    assert person.sees_the_end() == 0
    assert not any(map(is_running, scripts.values()))
    assert "txt2img.py was killed by signal 9; it is started again" in person.seen
    assert re.search(r"\d s for \d+ steps?; ", person.seen)
    assert memory[3] < 1.2 * memory[2] and memory[1] < 1.2 * memory[0], memory
    images = images_in(tmp_path)
    assert len(images) == 4
    page = tmp_path / "outputs" / "txt2img-samples" / "newest.html"
    assert (tmp_path / "viewed").read_text() == f"{page}\n"  # one window
    (session,) = (tmp_path / "outputs" / "sessions").iterdir()
    page = (session / "index.html").read_text()
    assert page.count("<audio") == 4 and "http" not in page
    for name in re.findall(r'(?:src|href)="([^"#]+)"', page):
        assert (session / name).stat().st_size
    assert sound.likeness(session / "0004_voice.wav", WORD) >= 0.95
    assert (session / "0004.png").read_bytes() == images[-1].read_bytes()
    with Image.open(session / "0004_card.png") as card:
        assert card.size == (1920, 1080)


def resident(process: int) -> int:
    """Return the private memory of a process in bytes."""
    private = re.findall(r"^Private_\w+: +(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
    return 1024 * sum(map(int, private))


# --- without a microphone --------------------------------------------------------------------------------------------
def test_no_microphone(sound_system, without_microphone):
    line = error_line(run(without_microphone, text="\n\n"))
    assert "there is no microphone (no sound device at all)" in line and "--input_file" in line


def test_no_portaudio(without_microphone, tmp_path):
    (tmp_path / "sounddevice.py").write_text('raise OSError("PortAudio library not found")')
    line = error_line(run(without_microphone | {"PYTHONPATH": str(tmp_path)}, text="\n\n"))
    assert "PortAudio library not found" in line and "--input_file" in line
    assert "install" in line


def test_closed_standard_input(without_microphone):
    command = [sys.executable, str(WORKFLOW), *PROMPT]
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": PATIENCE}
    finished = subprocess.run(command, env=without_microphone, preexec_fn=lambda: os.close(0), **options)
    assert "or a recording with --input_file F" in error_line(finished)


@pytest.mark.parametrize("name", ["temp_live_audio.wav", "live_latent.pt"])
def test_a_folder_in_place_of_a_file_of_the_run_is_noticed_first(without_microphone, tmp_path, name):
    (tmp_path / name).mkdir()
    finished = run_main(WORKFLOW.name, *PROMPT, "--input_file", VOICE, data=tmp_path)
    assert f": {tmp_path / name} is a folder; a file of that name is to be written" in error_line(finished)


@pytest.mark.slow
def test_files_become_the_images_that_the_plain_scripts_make(without_microphone, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_text("no sound")
    files = [f"--input_file={file}" for file in (WORD, broken, VOICE)]
    how = ["--negative_prompt", "red", "--voice_strength", "0.5", "--precision", "full", "--steps", "2"]
    prompt = ("--prompt", "calm flurbog waves")
    standby = run(without_microphone, *how, *files, "--verbose", prompt=prompt)
    *_, line = standby.stderr.splitlines()
    assert standby.returncode == 1
    assert line.startswith(f"run_live_workflow.py: process_live_audio.py: {broken}: not a recording")
    assert line.count(str(broken)) == 1 and KEPT not in line
    assert standby.stdout.count("calibration: built-in") == standby.stdout.count("no effect: flurbog") == 1
    latents = ["--init_latents", str(tmp_path / "live_latent.pt")]
    by_hand = run_main("txt2img.py", *prompt, *latents, *how, data=tmp_path)
    assert by_hand.returncode == 0, by_hand.stderr
    names = [re.findall(r"^image: (\S+)", made.stdout, re.MULTILINE) for made in (standby, by_hand)]
    assert [*names[0], *names[1]] == [str(path) for path in images_in(tmp_path)] and len(names[0]) == 2
    _, *same = (path.read_bytes() for path in images_in(tmp_path))
    assert same[0] == same[1] and not (tmp_path / "temp_live_audio.wav").exists()


def test_an_image_has_a_card_and_no_viewer_where_there_is_none(without_microphone, without_model, tmp_path):
    no_programs = without_microphone | {"PATH": str(tmp_path)}
    finished = run(no_programs, "--no_standby", "--card", "--open", "--input_file", str(WORD), script=without_model)
    assert finished.returncode == 0
    assert re.fullmatch(r"warning: --open needs .*; images are not opened\n", finished.stderr)
    (card,) = re.findall(r"^card: (.*)", finished.stdout, re.MULTILINE)
    assert Path(card).is_file()


@pytest.mark.slow
def test_a_calibration_that_does_not_work_is_noticed_before_anyone_speaks(with_microphone, tmp_path):
    (tmp_path / "data" / "stats").mkdir(parents=True)
    (tmp_path / "data" / "stats" / "mean.npy").write_text("broken")
    line = error_line(run(with_microphone, text="\n\n"))
    assert "process_live_audio.py failed with status 1: " in line


def test_a_script_that_cannot_load_is_noticed_before_anyone_speaks(sit_down, microphone, with_microphone, tmp_path):
    workflow = tree_with(tmp_path / "tree", "import sys; sys.exit('broken')", WAITS)
    person = sit_down(with_microphone, *PROMPT, script=workflow)
    person.waits_for("run_live_workflow.py: txt2img.py failed with status 1: broken")
    assert person.sees_the_end() == 1 and RECORDING not in person.seen


@pytest.mark.slow
def test_ctrl_c_ends_a_script_that_hangs(sit_down, without_microphone, tmp_path):
    workflow = tree_with(tmp_path / "tree", HANGS, ENCODES)
    person = sit_down(without_microphone, *PROMPT, "--input_file", str(VOICE), script=workflow)
    person.waits_for("latent (1, 4, 32, 32)")
    scripts = children(person)
    person.presses("\x03")
    assert person.sees_the_end() == 130
    assert person.seen.endswith("\r\ninterrupted\r\n") and KEPT not in person.seen
    assert "Traceback" not in person.seen
    assert len(scripts) == 2 and not any(map(is_running, scripts.values()))


@pytest.mark.slow
def test_ctrl_c_keeps_the_recordings_whose_images_wait(sit_down, microphone, with_microphone, tmp_path):
    workflow = tree_with(tmp_path / "tree", WAITS, ENCODES)
    person = sit_down(with_microphone, *PROMPT, "--loop", script=workflow)
    for voice in (VOICE, WORD):
        person.waits_for(READY)
        time.sleep(ONE_PRESS)
        speak(person, microphone, voice)
    person.waits_for("dBFS; its image comes after 1 other\r\n")
    person.presses("q\n")
    person.waits_for("2 images still to be made\r\n")
    person.presses("\x03")
    for voice in (VOICE, WORD):
        kept = path_after(person, KEPT)
        assert re.search(r"audio_\d{4}-", kept.name) and sound.likeness(kept, voice) >= 0.95
    assert person.sees_the_end() == 130
    assert {path.name for path in tmp_path.glob(".*")} == set()
