"""The live workflow as a person meets it: a terminal, a microphone that is spoken into, and what can go wrong."""

import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sound
import soundfile

import config

pty = pytest.importorskip("pty")  # not on Windows

VOICE = config.EXAMPLES_DIR / "voice_en.wav"
WORKFLOW = config.REPO_DIR / "run_live_workflow.py"
PATIENCE = 120.0  # seconds, for a busy machine
READY = "Press ENTER to start recording...\r\n"
RECORDING = "Recording... Press ENTER to stop.\r\n"
KEPT = "the recording is kept: "
HANGING_SCRIPT = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("here is", os.getpid(), flush=True)
time.sleep(60)
"""


class Person:
    """Somebody at a terminal of their own, in which a program runs."""

    def __init__(self, environment: dict[str, str], *arguments: str, script: Path = WORKFLOW) -> None:
        self._terminal, program_side = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            env=environment,
            stdin=program_side,
            stdout=program_side,
            stderr=program_side,
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # so that Ctrl-C in it reaches the program
        )
        os.close(program_side)
        self.seen = ""
        self._read_up_to = 0

    def waits_for(self, text: str) -> str:
        """Return what came since the last call, up to the end of `text`."""
        deadline = time.monotonic() + PATIENCE
        while (found := self.seen.find(text, self._read_up_to)) < 0:
            assert time.monotonic() < deadline and self._look(), f"no {text!r} in {self.seen!r}"
        before, self._read_up_to = self._read_up_to, found + len(text)
        return self.seen[before : self._read_up_to]

    def _look(self) -> bool:
        """Read what is there; False if the program has closed its terminal."""
        if not select.select([self._terminal], [], [], 1.0)[0]:
            return True
        try:
            came = os.read(self._terminal, 65536)
        except OSError:  # what Linux says of a closed terminal
            return False
        self.seen += came.decode()
        return bool(came)

    def presses(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def sees_the_end(self) -> int:
        deadline = time.monotonic() + PATIENCE
        while self._look():
            assert time.monotonic() < deadline, f"no end after {self.seen!r}"
        os.close(self._terminal)
        return self.process.wait(PATIENCE)


@pytest.fixture
def sit_down() -> Iterator[Callable[..., Person]]:
    """Makes a `Person`; what their program has not ended by the end of the test is killed."""
    people: list[Person] = []

    def make(*arguments, **options) -> Person:
        people.append(Person(*arguments, **options))
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
    environment: dict[str, str], *arguments: str, script: Path = WORKFLOW, **options
) -> subprocess.CompletedProcess:
    command = [sys.executable, str(script), "--prompt", "calm blue waves", *arguments]
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
    shutil.copytree(config.REPO_DIR / "audio", folder / "audio")
    shutil.copytree(config.MODELS_DIR, folder / "models")
    (folder / "txt2img.py").write_text(txt2img)
    return folder / "run_live_workflow.py"


# --- with a microphone -----------------------------------------------------------------------------------------------
def test_a_person_is_asked_again_until_there_is_a_voice(sit_down, microphone, with_microphone, tmp_path):
    person = sit_down(with_microphone, "--prompt", "calm blue waves")
    assert person.waits_for(READY) == READY
    person.presses("\n\n")  # too short
    assert RECORDING in person.waits_for("once more")
    person.waits_for(READY)
    person.presses("\n")
    person.waits_for(RECORDING)
    time.sleep(1.0)
    person.presses("\n")
    person.waits_for("Nothing was to be heard")
    person.waits_for(READY)
    person.presses("\n")
    person.waits_for(RECORDING)
    microphone.speak(VOICE)
    person.presses("\n")
    person.waits_for("recorded ")
    person.presses("\x03")
    assert person.sees_the_end() == 130
    assert KEPT in person.seen
    recording = tmp_path / "temp_live_audio.wav"
    assert sound.likeness(recording, VOICE) >= 0.95
    assert f"at {soundfile.info(recording).samplerate} Hz" in person.seen


def test_a_voice_becomes_a_picture(sit_down, microphone, with_microphone, tmp_path):
    person = sit_down(with_microphone, "--prompt", "calm blue waves", "--steps", "2")
    person.waits_for(READY)
    person.presses("\n")
    person.waits_for(RECORDING)
    microphone.speak(VOICE)
    person.presses("\n")
    assert person.sees_the_end() == 0
    (picture,) = (tmp_path / "outputs" / "txt2img-samples" / "samples").iterdir()
    assert re.search(rf"picture: {re.escape(str(picture))} \(\d+\.\d s from sound to picture\)\r\n$", person.seen)
    assert "next: " not in person.seen
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"temp_live_audio.wav", "live_latent.pt", "outputs"}


def test_ctrl_c_keeps_the_recording_in_progress(sit_down, microphone, with_microphone, tmp_path):
    person = sit_down(with_microphone, "--prompt", "calm blue waves")
    person.waits_for(READY)
    person.presses("\n")
    person.waits_for(RECORDING)
    microphone.speak(VOICE)
    person.presses("\x03")
    assert person.sees_the_end() == 130
    assert f"{KEPT}{tmp_path / 'temp_live_audio.wav'}" in person.seen
    assert "Traceback" not in person.seen
    assert sound.likeness(tmp_path / "temp_live_audio.wav", VOICE) >= 0.95
    assert [path.name for path in tmp_path.iterdir()] == ["temp_live_audio.wav"]


def test_a_microphone_that_goes_away_does_not_stop_the_show(sit_down, sound_system, tmp_path):
    with sound.sound_server() as server:
        person = sit_down(server.environment | {"VOICETOIMG_DATA_DIR": str(tmp_path)}, "--prompt", "calm blue waves")
        person.waits_for(READY)
        person.presses("\n")
        person.waits_for(RECORDING)
        server.speak(VOICE)
    person.waits_for("warning: the microphone went away; what was recorded is used")
    person.waits_for("recorded ")
    person.waits_for("latent (1, 4, 32, 32)")


def test_ctrl_c_before_the_recording_leaves_an_older_one(sit_down, with_microphone, tmp_path):
    older = tmp_path / "temp_live_audio.wav"
    older.write_text("older")
    person = sit_down(with_microphone, "--prompt", "calm blue waves")
    person.waits_for(READY)
    person.presses("\x03")
    assert person.sees_the_end() == 130
    assert KEPT not in person.seen and older.read_text() == "older"


@pytest.mark.parametrize("typed", ["", "\n\n"], ids=["nothing", "too short a recording"])
def test_standard_input_that_ends(with_microphone, typed):
    finished = run(with_microphone, input=typed)
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1].endswith("nobody can press ENTER; give a recording: --input_file F")
    assert ("once more" in finished.stderr) == bool(typed)


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


def test_a_folder_that_cannot_be_written_to_is_noticed_first(without_microphone, tmp_path):
    (tmp_path / "file").touch()
    environment = without_microphone | {"VOICETOIMG_DATA_DIR": str(tmp_path / "file" / "folder")}
    assert "cannot be written to" in error_line(run(environment, "--input_file", str(VOICE)))


def test_a_file_becomes_the_picture_that_the_plain_scripts_make(without_microphone, tmp_path):
    finished = run(without_microphone, "--steps", "2", "--x_T", "raw", "--input_file", str(VOICE))
    assert finished.returncode == 0, finished.stderr
    picture = Path(finished.stdout.splitlines()[-1].removeprefix("picture: ").rpartition(" (")[0])
    assert not (tmp_path / "temp_live_audio.wav").exists()
    by_hand = tmp_path / "by_hand"
    options = ["--init_latents", str(tmp_path / "live_latent.pt"), "--ddim_steps", "2", "--x_T", "raw"]
    made = run(without_microphone, *options, "--outdir", str(by_hand), script=config.REPO_DIR / "txt2img.py")
    assert made.returncode == 0, made.stderr
    (same,) = (by_hand / "samples").iterdir()
    assert same.read_bytes() == picture.read_bytes()


def test_a_file_that_is_no_recording(without_microphone, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_text("no sound")
    finished = run(without_microphone, "--input_file", str(broken))
    cause, consequence = finished.stderr.splitlines()
    assert finished.returncode == 1 and cause.startswith("process_live_audio.py: ")
    assert f"process_live_audio.py failed with status 1; {KEPT}{broken}" in consequence


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import sys; sys.exit(3)", "txt2img.py failed with status 3"),
        ("import os; os.kill(os.getpid(), 9)", "txt2img.py was killed by signal 9"),
        ("", "txt2img.py ended without naming a picture"),
    ],
)
def test_a_script_that_fails_is_named(without_microphone, tmp_path, script, message):
    workflow = tree_with(tmp_path / "tree", script)
    finished = run(without_microphone, "--input_file", str(VOICE), script=workflow)
    assert error_line(finished) == f"run_live_workflow.py: {message}; {KEPT}{VOICE}"


def test_ctrl_c_ends_a_script_that_hangs(sit_down, without_microphone, tmp_path):
    workflow = tree_with(tmp_path / "tree", HANGING_SCRIPT)
    person = sit_down(without_microphone, "--prompt", "-", "--input_file", str(VOICE), script=workflow)
    person.waits_for("here is ")
    process = int(person.waits_for("\r\n"))
    pressed = time.monotonic()
    person.presses("\x03")
    assert person.sees_the_end() == 130
    assert time.monotonic() - pressed < 3.0  # one second, on a machine that does something else as well
    assert f"{KEPT}{VOICE}" in person.seen and "Traceback" not in person.seen
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
