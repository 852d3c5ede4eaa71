"""The stage as the program that a person starts, with the scripts as they are."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest

import config
from stage.server import listen
from tests import forked
from tests.programs import PATIENCE, run_main, run_script, wait_until
from tests.sound import likeness
from tests.stage.house import PROMPT, Guest, voice, wav_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser

VOICE = config.EXAMPLES_DIR / "voice_en.wav"
SCRIPT = str(config.REPO_DIR / "run_live_workflow.py")


def free_port() -> int:
    with listen("127.0.0.1", 0) as one:
        return int(one.getsockname()[1])


class Program:
    """A running stage, and what it has printed."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.port, self.log = free_port(), folder / "log"
        self.url, self.address = f"http://127.0.0.1:{self.port}", self
        command = [SCRIPT, "--stage", "--prompt", PROMPT, f"--stage_port={self.port}", *words]
        environment = os.environ | {"VOICETOIMG_DATA_DIR": str(folder)}
        with self.log.open("wb") as log, open(os.devnull, "rb") as nothing:
            streams = (nothing.fileno(), log.fileno(), log.fileno())
            self.process = forked.start(command, environment, config.REPO_DIR, streams)
        wait_until(lambda: "operator?key=" in self.said or self.process.poll() is not None)
        assert self.process.poll() is None, self.said

    @property
    def said(self) -> str:
        return self.log.read_text()

    def ends(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return self.process.wait(PATIENCE)


@contextmanager
def program(folder: Path, *words: str) -> Iterator[Program]:
    running = Program(folder, *words)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait(PATIENCE)


@pytest.mark.slow
def test_a_voice_becomes_an_image_of_the_model_on_both_pages(tmp_path, chromium: "Browser"):
    with program(tmp_path, "--steps", "2") as stage:
        context = chromium.new_context(permissions=["microphone"], locale="en-GB")
        page, screen = context.new_page(), context.new_page()
        screen.goto(f"{stage.url}/screen")
        page.goto(stage.url)
        page.set_default_timeout(PATIENCE * 1000)
        screen.set_default_timeout(PATIENCE * 1000)
        page.wait_for_selector("[data-state=ready]")
        page.wait_for_timeout(800)  # in which the microphone opens
        page.keyboard.down("Space")
        page.wait_for_timeout(1500)
        page.keyboard.up("Space")
        page.wait_for_selector("[data-state=picture]")
        screen.wait_for_selector("[data-mode=picture]")
        address = page.get_attribute("#picture", "src") or ""
        screen.wait_for_selector(f"#wall img.on[src='{address}']")
        wait_until(lambda: list(tmp_path.glob("outputs/sessions/*/index.html")) != [])
        (folder,) = tmp_path.glob("outputs/sessions/*")
        names = {path.name for path in folder.iterdir()}
        assert {"0001.png", "0001.pt", "0001_voice.wav", "0001_card.png", "index.html"} <= names
        id = address.removeprefix("/image/")
        assert screen.evaluate(f"fetch('/card/{id}').then((answer) => answer.status)") == 200
        context.close()
        assert stage.ends(signal.SIGINT) == 130
    said = stage.said
    assert "Traceback" not in said and said.rstrip().endswith("interrupted")
    assert PROMPT in (folder / "index.html").read_text()


def test_a_port_that_is_taken_is_said_in_one_line(tmp_path):
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        done = run_main("run_live_workflow.py", "--stage", "--prompt", PROMPT, f"--stage_port={port}", data=tmp_path)
    assert done.returncode == 1 and "address already in use" in done.stderr and done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_without_its_packages_one_line_names_the_command(tmp_path):
    with mock.patch.dict(sys.modules, {"uvicorn": None}):
        for name in [name for name in sys.modules if name.startswith("stage.") and name != "stage.options"]:
            sys.modules.pop(name)
        done = run_main("run_live_workflow.py", "--stage", "--prompt", PROMPT, data=tmp_path)
    assert done.returncode == 1 and "--stage needs the package uvicorn: make stage installs it" in done.stderr


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_ends_the_stage_with_one_line(tmp_path):
    weights = tmp_path / "broken.ckpt"
    weights.write_bytes(b"no weights")
    words = ("--stage", "--prompt", PROMPT, "--ckpt", weights, f"--stage_port={free_port()}")
    done = run_script("run_live_workflow.py", *words, data=tmp_path)
    assert done.returncode == 1 and "broken.ckpt" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_program_that_was_killed_leaves_the_recording_to_the_next(tmp_path):
    """A power cut tells nothing before."""
    with program(tmp_path, "--steps", "1") as stage:
        guest = Guest(stage)  # type: ignore[arg-type]  # it has what a guest uses
        guest.get("/")
        recording = guest.begin()
        assert guest.piece(recording, 0, wav_of(voice(2.0)))[0] == 200
        stage.process.kill()
        stage.process.wait(PATIENCE)
    with program(tmp_path, "--steps", "1") as stage:
        kept = re.findall(r"an earlier recording without an image is kept: (\S+)", stage.said)
        assert len(kept) == 1 and Path(kept[0]).stat().st_size > 2 * 44_100 * 2


@pytest.mark.slow
def test_the_microphone_of_the_machine_is_worked_by_the_button(tmp_path, microphone):
    """In a process of its own, because PortAudio looks for sound servers once."""
    folder = tmp_path / "data"
    folder.mkdir()
    with (
        mock.patch.dict(os.environ, microphone.environment, clear=True),
        program(folder, "--steps", "1", "--mic", "default") as stage,
    ):
        guest = Guest(stage)  # type: ignore[arg-type]  # it has what a guest uses
        guest.get("/")
        with guest.events("visitor") as events:
            you = next(content for _, name, content in events if name == "you")
            assert you["machine"]
            recording = guest.begin()
            microphone.speak(VOICE)
            status, verdict = guest.piece(recording, 0, b"", last=True)
            assert status == 200 and verdict["problem"] == "", (verdict, stage.said)
            told = set()
            for _, name, content in events:
                told.add(name)
                if name == "you" and content["picture"]:
                    break
            assert "wave" in told
        wait_until(lambda: list(folder.glob("outputs/sessions/*/session.json")) != [])
        (recorded,) = folder.glob("outputs/sessions/*/0001_voice.wav")
    assert likeness(recorded, VOICE) > 0.95
