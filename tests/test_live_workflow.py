"""The live workflow as a person meets it: a terminal, a microphone that is spoken into, and what can go wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sound
import soundfile
from PIL import Image

import config
import run_live_workflow
from live import capture

pytest.importorskip("pty")  # not on Windows

from person import PATIENCE, Person  # noqa: E402

VOICE = config.EXAMPLES_DIR / "voice_en.wav"
WORD = config.EXAMPLES_DIR / "word_de.ogg"
WORKFLOW = config.REPO_DIR / "run_live_workflow.py"
PROMPT = ("--prompt", "calm blue waves")
QUICK = (*PROMPT, "--steps", "1")
READY = "Press ENTER to start recording...\r\n"
RECORDING = "Recording... Press ENTER to stop.\r\n"
KEPT = "the recording is kept: "
EARLIER_KEPT = "an earlier recording, of which no picture was made, is kept: "
SOON = 3.0  # seconds: one is promised, on a machine that does nothing else
# in place of txt2img.py: works, then does what is wrong with it
FAULTY_SCRIPT = """
import json, os, signal, sys, time
print(json.dumps({"ready": True}), flush=True)
for request in sys.stdin:
    {fault}
"""
HANGS = "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
DIES_ONCE = """
    if not os.path.exists("died"):
        open("died", "x")
        os.kill(os.getpid(), 9)
    time.sleep(0.05)
    print(json.dumps({"pictures": ["picture.png"]}), flush=True)
"""
WAITS = "sys.stdin.read()"  # for the end of who started it


@pytest.fixture
def sit_down() -> Iterator[Callable[..., Person]]:
    """Makes a `Person`; what their program has not ended by the end of the test is killed."""
    people: list[Person] = []

    def make(*arguments, script: Path = WORKFLOW, **options) -> Person:
        people.append(Person(*arguments, script=script, **options))
        return people[-1]

    yield make
    for person in people:
        person.process.kill()
        person.process.wait()


@pytest.fixture
def with_microphone(microphone, tmp_path) -> dict[str, str]:
    return microphone.environment | {"VOICETOIMG_DATA_DIR": str(tmp_path)}


@pytest.fixture
def without_microphone(tmp_path) -> dict[str, str]:
    home = tmp_path / "home"
    home.mkdir()
    return sound.silent_environment(home) | {"VOICETOIMG_DATA_DIR": str(tmp_path)}


def run(
    environment: dict[str, str], *arguments: str, script: Path = WORKFLOW, prompt: tuple[str, ...] = PROMPT, **options
) -> subprocess.CompletedProcess:
    command = [sys.executable, str(script), *prompt, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, **options)


def error_line(finished: subprocess.CompletedProcess) -> str:
    """The one line on stderr of a program that failed as it should."""
    assert finished.returncode == 1, finished
    (line,) = finished.stderr.splitlines()
    return line


def tree_with(folder: Path, txt2img: str) -> Path:
    """The workflow of a tree whose txt2img.py is another."""
    folder.mkdir()
    for name in ("config.py", "cli.py", "files.py", "run_live_workflow.py", "process_live_audio.py"):
        shutil.copy(config.REPO_DIR / name, folder)
    for name in ("audio", "live", "models"):
        shutil.copytree(config.REPO_DIR / name, folder / name)
    (folder / "txt2img.py").write_text(txt2img)
    return folder / "run_live_workflow.py"


def begin(person: Person, microphone: sound.SoundServer, voice: Path) -> None:
    """ENTER, and a voice."""
    person.presses("\n")
    person.waits_for(RECORDING)
    microphone.speak(voice)


def speak(person: Person, microphone: sound.SoundServer, voice: Path) -> None:
    """ENTER, a voice, ENTER, pressed twice by accident."""
    begin(person, microphone, voice)
    person.presses("\n\n")


def path_after(person: Person, text: str) -> Path:
    """The path that ends the line that `text` begins."""
    person.waits_for(text)
    return Path(person.waits_for("\r\n").rstrip())


def pictures_in(folder: Path) -> list[Path]:
    return sorted((folder / "outputs" / "txt2img-samples" / "samples").glob("*.png"))


def children(person: Person) -> dict[str, int]:
    """Process numbers of the scripts that a person's program has started, by name."""
    number = person.process.pid
    found = {}
    for child in Path(f"/proc/{number}/task/{number}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
        found |= {Path(word).name: int(child) for word in words if word.endswith(".py")}
    return found


def is_there(process: int) -> bool:
    """Whether a process still runs. One that waits for its parent's notice does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(true: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- the command line -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --prompt"),
        (["--prompt", ""], "--prompt is empty: say what the picture shows"),
        (["--prompt", " \t"], "--prompt is empty: say what the picture shows"),
        (["--prompt", "x", "--mic_test"], "--prompt and --mic_test ask for different things"),
        (["--list_mics", "--mic_test"], "--list_mics and --mic_test ask for different things"),
        (["--mic_test", "--input_file", str(WORD)], "--mic_test is about the microphone, and --input_file replaces"),
        (["--prompt", "calm", "blue"], "unrecognized arguments: blue; put a text of several words in quotes (see"),
    ],
)
def test_wrong_command_lines_get_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        run_live_workflow.parse(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and message in line


# --- recording -------------------------------------------------------------------------------------------------------
def test_a_person_is_asked_again_until_there_is_a_voice(sit_down, microphone, with_microphone, tmp_path):
    recording = tmp_path / "temp_live_audio.wav"
    recording.write_text("older")
    person = sit_down(with_microphone, *PROMPT)
    assert person.waits_for(READY) == READY
    person.presses("\n\n")  # too short
    assert RECORDING in person.waits_for("once more")
    person.waits_for(READY)
    person.presses("\n")
    person.waits_for(RECORDING)
    time.sleep(1.0)
    person.presses("\n")
    person.waits_for("Nothing was to be heard")
    assert recording.read_text() == "older"
    speak(person, microphone, VOICE)
    person.waits_for("recorded ")
    person.presses("\x03")
    assert person.sees_the_end() == 130
    assert KEPT in person.seen
    (kept,) = tmp_path.glob("temp_live_audio*.wav")
    assert sound.likeness(kept, VOICE) >= 0.95
    assert f"at {soundfile.info(kept).samplerate} Hz" in person.seen


def test_a_voice_becomes_a_picture(sit_down, microphone, with_microphone, tmp_path):
    person = sit_down(with_microphone, *QUICK, columns=30)
    speak(person, microphone, VOICE)
    assert person.sees_the_end() == 0
    (picture,) = pictures_in(tmp_path)
    assert re.search(rf"picture: {re.escape(str(picture))} \(\d+\.\d s from sound to picture\)\r\n$", person.seen)
    assert "next: " not in person.seen
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"temp_live_audio.wav", "live_latent.pt", "outputs"}
    with Image.open(picture) as image:
        assert sum(map(len, image.info.values())) < 3000  # words, numbers and hashes: nothing to make a voice of
    meter = re.findall(r"\r( *\d+\.\d s +-?\d[^\r]*)", person.seen)
    assert len(meter) > 20 and all(len(line) < 30 for line in meter)


def test_lines_where_there_is_no_terminal_and_seconds_where_there_is_nobody(microphone, with_microphone, tmp_path):
    command = [sys.executable, str(WORKFLOW), *QUICK, "--seconds", "3.5", "--discard_audio"]
    with subprocess.Popen(
        command, env=with_microphone, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        while process.stdout.readline() != "Recording... Press ENTER to stop.\n":
            assert process.poll() is None
        microphone.speak(VOICE)
        out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "\r" not in out and re.search(r"^2 s: level -\d+ dBFS, peak -\d+ dBFS$", out, re.MULTILINE)
    assert 3.5 <= float(re.search(r"^recorded (\S+) s", out, re.MULTILINE)[1]) < 4.0 and "picture: " in out
    assert {path.name for path in tmp_path.iterdir()} == {"live_latent.pt", "outputs"}


def test_silence_after_speech_ends_a_recording(sit_down, microphone, with_microphone):
    person = sit_down(with_microphone, *PROMPT, "--auto_stop", "0.6")
    person.waits_for(READY)
    person.presses("\n")
    person.waits_for(RECORDING)
    time.sleep(1.0)  # silence before speech does not count
    microphone.speak(WORD)
    seconds = float(re.search(r"recorded (\d+\.\d) s", person.waits_for("dBFS: "))[1])
    assert 1.5 < seconds < 1.0 + soundfile.info(WORD).duration + 2.0


def test_microphones_are_listed_tested_and_chosen(sit_down, microphone, with_microphone, tmp_path):
    listed = run(with_microphone, "--list_mics", prompt=()).stdout.splitlines()
    (default,) = (line for line in listed if line.endswith("default"))
    number, name = default.split()[:2]
    person = sit_down(with_microphone, "--mic_test", "--seconds", "2", "--mic", name.upper())
    person.waits_for("speak for 2 s")
    microphone.speak(VOICE)
    person.waits_for("good: the loudest was ")
    assert person.sees_the_end() == 0
    read_only = with_microphone | {"VOICETOIMG_DATA_DIR": "/proc/nowhere"}
    silent = run(read_only, "--mic_test", "--seconds", "0.5", "--mic", number, prompt=())
    assert silent.stdout.splitlines()[-1].startswith("silent: ")
    assert silent.returncode == 1 and list(tmp_path.iterdir()) == []
    for wrong in ("nothing of the kind", "99"):
        line = error_line(run(with_microphone, "--mic", wrong))
        assert f"there is no microphone {wrong} (devices: " in line and name in line


def test_ctrl_c_keeps_the_recording_in_progress(sit_down, microphone, with_microphone, tmp_path):
    person = sit_down(with_microphone, *PROMPT)
    person.waits_for(READY)
    begin(person, microphone, VOICE)
    scripts = children(person)
    assert scripts.keys() == {"process_live_audio.py", "txt2img.py"}
    for _ in range(3):  # once would do
        person.presses("\x03")
        time.sleep(0.05)
    assert person.sees_the_end() == 130
    assert f"{KEPT}{tmp_path / 'temp_live_audio.wav'}" in person.seen
    assert "Traceback" not in person.seen
    assert sound.likeness(tmp_path / "temp_live_audio.wav", VOICE) >= 0.95
    assert {path.name for path in tmp_path.iterdir()} == {"temp_live_audio.wav", ".temp_live_audio.unpainted"}
    assert not any(map(is_there, scripts.values()))


def test_ctrl_c_before_the_recording_leaves_an_older_one(sit_down, with_microphone, tmp_path):
    older = tmp_path / "temp_live_audio.wav"
    older.write_text("older")
    person = sit_down(with_microphone, *PROMPT)
    person.waits_for(READY)
    person.presses("\x03")
    assert person.sees_the_end() == 130
    assert KEPT not in person.seen and older.read_text() == "older"


def test_a_show_that_is_killed_leaves_its_recording_and_no_script(sit_down, microphone, with_microphone, tmp_path):
    person = sit_down(with_microphone, *PROMPT)
    person.waits_for(READY)
    begin(person, microphone, VOICE)
    scripts = children(person)
    person.process.kill()
    wait_until(lambda: not any(map(is_there, scripts.values())))
    again = sit_down(with_microphone, *PROMPT)
    kept = path_after(again, EARLIER_KEPT)
    assert sound.likeness(kept, VOICE) >= 0.95
    again.waits_for(READY)
    again.presses("\x03")
    assert again.sees_the_end() == 130
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]


def test_a_recording_whose_show_is_killed_while_it_paints_is_not_replaced(
    sit_down, microphone, with_microphone, tmp_path
):
    workflow = tree_with(tmp_path / "tree", FAULTY_SCRIPT.replace("{fault}", WAITS))
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


def test_a_microphone_that_goes_away_does_not_stop_the_show(sit_down, sound_system, tmp_path):
    with sound.sound_server() as server:
        person = sit_down(server.environment | {"VOICETOIMG_DATA_DIR": str(tmp_path)}, *QUICK, "--loop")
        person.waits_for(READY)
        begin(person, server, VOICE)
    person.waits_for("warning: the microphone went away; what was recorded is used")
    assert "Expression" not in person.seen  # what PortAudio and ALSA say of it
    person.waits_for("recorded ")
    person.waits_for(READY)
    time.sleep(capture.DOUBLE)
    person.presses("\n")
    person.waits_for("once more, please.")
    person.waits_for(READY)
    person.presses("q\n")
    assert person.sees_the_end() == 0
    assert "picture: " in person.seen


def test_two_shows_in_one_folder(sit_down, microphone, with_microphone, tmp_path):
    first = sit_down(with_microphone, *QUICK)
    first.waits_for(READY)
    second = sit_down(with_microphone, *QUICK)
    second.waits_for("another show is at work in this folder")
    speak(second, microphone, WORD)
    assert second.sees_the_end() == 0
    speak(first, microphone, VOICE)
    assert first.sees_the_end() == 0
    assert sound.likeness(tmp_path / "temp_live_audio.wav", VOICE) >= 0.95
    assert sound.likeness(tmp_path / "temp_live_audio_2.wav", WORD) >= 0.95
    assert (tmp_path / "live_latent.pt").read_bytes() != (tmp_path / "live_latent_2.pt").read_bytes()
    assert len(pictures_in(tmp_path)) == 2 and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("typed", ["", "\n\n"], ids=["nothing", "too short a recording"])
def test_standard_input_that_ends(with_microphone, typed):
    finished = run(with_microphone, input=typed)
    assert finished.returncode == 1
    last = finished.stderr.splitlines()[-1]
    if typed:
        assert re.search(r"That was 0\.\d+ s, .*: there is nothing to make a picture of$", last)
    else:
        assert last.endswith(
            "nobody can press ENTER; say how long with --seconds N, or give a recording: --input_file F"
        )


# --- a show of many pictures -----------------------------------------------------------------------------------------
def test_ten_recordings_in_one_show(sit_down, microphone, with_microphone, tmp_path):
    viewer = tmp_path / "bin" / "xdg-open"
    viewer.parent.mkdir()
    viewer.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path / "viewed"}\n')
    viewer.chmod(0o755)
    environment = with_microphone | {"PATH": f"{viewer.parent}:{os.environ['PATH']}"}
    person = sit_down(environment, *PROMPT, "--budget", "0.4", "--loop", "--keep", "--card", "--open")
    memory = []
    for number in range(1, 11):
        person.waits_for(READY)
        speak(person, microphone, WORD)
        person.waits_until(lambda: len(pictures_in(tmp_path)) == number)  # noqa: B023
        time.sleep(capture.DOUBLE)  # in which ENTER would be taken for one that was pressed twice
        memory.append(sum(map(resident, (person.process.pid, *children(person).values()))))
        if number == 5:
            os.kill(children(person)["txt2img.py"], signal.SIGKILL)
    scripts = children(person)
    person.presses("q\n")
    assert person.sees_the_end() == 0
    assert not any(map(is_there, scripts.values()))
    assert "txt2img.py was killed by signal 9; it is started again" in person.seen
    assert re.search(r"\d steps? of DPM-Solver\+\+ take", person.seen)
    assert memory[-1] < 1.1 * memory[6] and memory[4] < 1.1 * memory[2]
    pictures = pictures_in(tmp_path)
    assert len(pictures) == 10
    assert len((tmp_path / "viewed").read_text().splitlines()) == 10
    (session,) = (tmp_path / "outputs" / "sessions").iterdir()
    page = (session / "index.html").read_text()
    assert page.count("<audio") == 10 and "http" not in page
    for name in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert (session / name).stat().st_size
    assert sound.likeness(session / "0010_voice.wav", WORD) >= 0.95
    assert (session / "0010.png").read_bytes() == pictures[-1].read_bytes()
    with Image.open(session / "0010_card.png") as card:
        assert card.size == (1920, 1080)


def resident(process: int) -> int:
    """Bytes of memory that a process has for itself."""
    private = re.findall(r"^Private_\w+: +(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
    return 1024 * sum(map(int, private))


# --- without a microphone --------------------------------------------------------------------------------------------
def test_no_microphone(sound_system, without_microphone):
    line = error_line(run(without_microphone, input="\n\n"))
    assert "there is no microphone (no sound device at all)" in line and "--input_file" in line


def test_no_portaudio(without_microphone, tmp_path):
    (tmp_path / "sounddevice.py").write_text('raise OSError("PortAudio library not found")')
    line = error_line(run(without_microphone | {"PYTHONPATH": str(tmp_path)}, input="\n\n"))
    assert "PortAudio library not found" in line and "--input_file" in line
    assert "install" in line


def test_closed_standard_input(without_microphone):
    finished = run(without_microphone, preexec_fn=lambda: os.close(0))
    assert "give a recording: --input_file F" in error_line(finished)


@pytest.mark.parametrize("place", ["file/folder", "/proc/nowhere"], ids=["below a file", "read-only"])
def test_a_folder_that_cannot_be_written_to_is_noticed_first(without_microphone, tmp_path, place):
    (tmp_path / "file").touch()
    environment = without_microphone | {"VOICETOIMG_DATA_DIR": str(tmp_path / place)}
    assert "cannot be written to" in error_line(run(environment, "--input_file", str(VOICE)))


@pytest.mark.parametrize("name", ["temp_live_audio.wav", "live_latent.pt"])
def test_a_folder_in_place_of_a_file_of_the_show_is_noticed_first(without_microphone, tmp_path, name):
    (tmp_path / name).mkdir()
    line = error_line(run(without_microphone, "--input_file", str(VOICE)))
    assert line.endswith(f": {tmp_path / name} is a folder, and the show needs a file of that name: move it away")


def test_files_become_the_pictures_that_the_plain_scripts_make(without_microphone, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_text("no sound")
    files = [f"--input_file={file}" for file in (WORD, broken, VOICE)]
    standby = run(without_microphone, "--steps", "2", *files)
    line = error_line(standby)
    assert line.startswith(f"run_live_workflow.py: {broken}: process_live_audio.py: not a recording")
    assert line.count(str(broken)) == 1 and KEPT not in line
    assert standby.stdout.count("built-in calibration used") == 1
    no_programs = without_microphone | {"PATH": str(tmp_path)}
    without = run(no_programs, "--steps", "2", "--no_standby", "--card", "--open", files[-1])
    assert without.returncode == 0
    assert re.fullmatch(r"warning: --open needs .*; pictures are not shown\n", without.stderr)
    assert Path(re.search(r"^card: (.*)", without.stdout, re.MULTILINE)[1]).is_file()
    options = ["--init_latents", str(tmp_path / "live_latent.pt"), "--ddim_steps", "2"]
    by_hand = run(without_microphone, *options, script=config.REPO_DIR / "txt2img.py")
    assert by_hand.returncode == 0, by_hand.stderr
    names = [re.findall(r"^picture: (\S+)", made.stdout, re.MULTILINE) for made in (standby, without, by_hand)]
    assert [*names[0], *names[1], *names[2]] == [str(path) for path in pictures_in(tmp_path)] and len(names[0]) == 2
    _, *same = (path.read_bytes() for path in pictures_in(tmp_path))
    assert same[0] == same[1] == same[2] and not (tmp_path / "temp_live_audio.wav").exists()


def test_how_to_paint_is_said_as_to_txt2img(without_microphone, tmp_path):
    weights = config.BUILTIN_MODEL_WEIGHTS
    how = ["--negative_prompt", "red", "--voice_strength", "0.5", "--precision", "full", "--ckpt", str(weights)]
    live = run(without_microphone, "--input_file", str(WORD), "--steps", "2", *how)
    latent = ["--init_latents", str(tmp_path / "live_latent.pt"), "--ddim_steps", "2"]
    by_hand = run(without_microphone, *latent, *how, script=config.REPO_DIR / "txt2img.py")
    assert (live.returncode, by_hand.returncode) == (0, 0), live.stderr + by_hand.stderr
    one, other = pictures_in(tmp_path)
    assert one.read_bytes() == other.read_bytes()
    said = json.loads(Image.open(one).info["voicetoimg"])["picture"]
    assert (said["negative_prompt"], said["precision"], said["guidance_rescale"]) == ("red", "fp32", 0.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--x_T", "raw", "--voice_strength", "0.5"], "leave one of them out"),
        (["--model", "chladni", "--ckpt", str(VOICE)], "give one of them"),
        (["--model", "nowhere"], "there is no"),
        (["--scale", "1", "--negative_prompt", "red"], "leave one of them out"),
    ],
)
def test_how_to_paint_that_does_not_go_together(options, words, without_microphone):
    result = run(without_microphone, "--input_file", str(VOICE), *options)
    assert result.returncode == 2 and words in result.stderr and result.stderr.count("\n") == 1
    assert result.stderr.startswith("run_live_workflow.py: ")


@pytest.mark.parametrize("option", [(), ("--no_standby",), ("--budget", "5")], ids=["", "no standby", "budget"])
def test_words_without_effect_are_named_once_in_a_show(without_microphone, option):
    files = ("--input_file", str(WORD), "--input_file", str(VOICE))
    finished = run(without_microphone, "--prompt", "zzyxq flurbog waves", *files, *option)
    assert finished.returncode == 0
    assert finished.stderr == "note: this model does not know, and leaves out: flurbog, zzyxq\n"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import sys; sys.exit('no such\\ncolour')", "txt2img.py failed with status 1: colour"),
        ("import os; os.kill(os.getpid(), 9)", "txt2img.py was killed by signal 9"),
        (FAULTY_SCRIPT.replace("{fault}", "print('{}', flush=True)"), "txt2img.py ended without naming a picture"),
        (
            FAULTY_SCRIPT.replace("{fault}", """print('{"pictures": [5]}', flush=True)"""),
            "an error in this program, TypeError: .* \\(VOICETOIMG_TRACEBACK=1 shows where\\)",
        ),
    ],
    ids=["fails", "is killed", "does nothing", "is not understood"],
)
def test_a_script_that_does_not_work_is_named(without_microphone, tmp_path, script, message):
    workflow = tree_with(tmp_path / "tree", script)
    finished = run(without_microphone, "--input_file", str(VOICE), script=workflow)
    assert re.fullmatch(f"run_live_workflow.py: {re.escape(str(VOICE))}: {message}", error_line(finished))


def test_tracebacks_are_shown_to_who_asks_for_them(without_microphone, tmp_path):
    workflow = tree_with(tmp_path / "tree", FAULTY_SCRIPT.replace("{fault}", "print('{}', flush=True)"))
    environment = without_microphone | {"VOICETOIMG_TRACEBACK": "1"}
    finished = run(environment, "--input_file", str(VOICE), script=workflow)
    *traceback, line = finished.stderr.splitlines()
    assert finished.returncode == 1 and traceback[0] == "Traceback (most recent call last):"
    assert line == f"run_live_workflow.py: {VOICE}: txt2img.py ended without naming a picture"


def test_a_script_that_dies_while_its_speed_is_measured_is_started_again(without_microphone, tmp_path):
    workflow = tree_with(tmp_path / "tree", FAULTY_SCRIPT.replace("{fault}", DIES_ONCE))
    finished = run(without_microphone, "--input_file", str(VOICE), "--budget", "5", script=workflow, cwd=tmp_path)
    assert finished.returncode == 0 and "txt2img.py was killed by signal 9; it is started again" in finished.stderr
    # nothing but the listening, which is fast once it is loaded, was taken from the budget
    assert float(re.search(r"take \d\.\d s; (\d\.\d) s of the budget are left", finished.stdout)[1]) > 4


@pytest.mark.parametrize("options", [(), ("--budget", "5")], ids=["", "budget"])
def test_a_script_that_cannot_load_is_noticed_before_anyone_speaks(
    sit_down, microphone, with_microphone, tmp_path, options
):
    workflow = tree_with(tmp_path / "tree", "import sys; sys.exit('broken')")
    person = sit_down(with_microphone, *PROMPT, *options, script=workflow)
    person.waits_for("run_live_workflow.py: txt2img.py failed with status 1: broken")
    assert person.sees_the_end() == 1 and RECORDING not in person.seen


def test_what_does_not_work_is_noticed_before_anyone_speaks(with_microphone, tmp_path):
    tree_with(tmp_path / "tree", "")
    weights = tmp_path / "tree" / "models" / "chladni" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1_000_000])
    line = error_line(run(with_microphone, script=tmp_path / "tree" / "run_live_workflow.py"))
    assert f"the model {weights} is not whole" in line
    (tmp_path / "data" / "stats").mkdir(parents=True)
    (tmp_path / "data" / "stats" / "mean.npy").write_text("broken")
    assert "process_live_audio.py failed with status 1: " in error_line(run(with_microphone, input="\n\n"))


def test_ctrl_c_ends_a_script_that_hangs(sit_down, without_microphone, tmp_path):
    workflow = tree_with(tmp_path / "tree", FAULTY_SCRIPT.replace("{fault}", HANGS))
    person = sit_down(without_microphone, *PROMPT, "--input_file", str(VOICE), script=workflow)
    person.waits_for("latent (1, 4, 32, 32)")
    scripts = children(person)
    pressed = time.monotonic()
    person.presses("\x03")
    assert person.sees_the_end() == 130
    assert time.monotonic() - pressed < SOON
    assert person.seen.endswith("\r\ninterrupted\r\n") and KEPT not in person.seen
    assert "Traceback" not in person.seen
    assert len(scripts) == 2 and not any(map(is_there, scripts.values()))


def test_a_recording_of_which_no_picture_came_is_not_replaced(sit_down, microphone, with_microphone, tmp_path):
    workflow = tree_with(tmp_path / "tree", FAULTY_SCRIPT.replace("{fault}", "sys.exit('no colours left')"))
    person = sit_down(with_microphone, *PROMPT, "--loop", script=workflow)
    for voice in (VOICE, WORD):
        speak(person, microphone, voice)
        person.waits_for("it is started again")
        person.waits_for(f"no colours left; {KEPT}")
        time.sleep(capture.DOUBLE)
    (tmp_path / "data" / "stats").mkdir(parents=True)
    (tmp_path / "data" / "stats" / "mean.npy").write_text("broken")
    (tmp_path / "live_latent.pt").write_text("of an earlier voice")
    speak(person, microphone, WORD)
    person.waits_for("run_live_workflow.py: process_live_audio.py: ")
    person.waits_for(f"; {KEPT}")
    person.presses("q\n")
    assert person.sees_the_end() == 1
    kept = sorted(tmp_path.glob("temp_live_audio_*.wav"))
    assert [sound.likeness(*pair) >= 0.95 for pair in zip(kept, (VOICE, WORD, WORD), strict=True)] == [True] * 3
    assert len(list(tmp_path.glob("live_latent_*.pt"))) == 2
    assert (tmp_path / "live_latent.pt").read_text() == "of an earlier voice"


def test_ctrl_c_keeps_the_recordings_whose_pictures_wait(sit_down, microphone, with_microphone, tmp_path):
    workflow = tree_with(tmp_path / "tree", FAULTY_SCRIPT.replace("{fault}", WAITS))
    person = sit_down(with_microphone, *PROMPT, "--loop", script=workflow)
    for voice in (VOICE, WORD):
        person.waits_for(READY)
        time.sleep(capture.DOUBLE)
        speak(person, microphone, voice)
    person.waits_for("dBFS; its picture comes after 1 other\r\n")
    person.presses("q\n")
    person.waits_for("2 pictures are still to be made\r\n")
    person.presses("\x03")
    for voice in (VOICE, WORD):
        kept = path_after(person, KEPT)
        assert re.search(r"audio_\d{4}-", kept.name) and sound.likeness(kept, voice) >= 0.95
    assert person.sees_the_end() == 130
    assert {path.name for path in tmp_path.glob(".*")} == set()
