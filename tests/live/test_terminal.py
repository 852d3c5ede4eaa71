"""The terminal as a display, and the keyboard."""

import io
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from live.display import Display
from live.keyboard import Keyboard
from live.meter import Meter
from live.terminal import Terminal, progress_bar


class FakeTerminal(io.StringIO):
    """Standard output that is a terminal, or not."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal

    def shown(self) -> list[str]:
        """Return the lines as a person sees them: after a carriage return, text is overwritten."""
        lines = []
        for written in self.getvalue().split("\n"):
            line: list[str] = []
            for part in written.split("\r"):
                line[: len(part)] = part
            lines.append("".join(line).rstrip())
        return lines


def terminal_on(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> tuple[Display, FakeTerminal]:
    out = FakeTerminal(is_terminal)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal(), out


def loud(seconds: float) -> Meter:
    """Return a meter after some seconds of sound."""
    meter = Meter(1000)
    meter.add(np.resize(np.array([0.5, -0.5], np.float32), round(1000 * seconds)), 0)
    return meter


def test_lines_stay_above_one_line_that_changes(monkeypatch):
    terminal, out = terminal_on(monkeypatch, True)
    terminal.status("loading...")
    terminal.say("first")
    assert out.shown() == ["first", "loading..."]
    terminal.progress(1, 4)
    terminal.say("second")
    terminal.progress(2, 4)
    first, second, bar = out.shown()
    assert (first, second) == ("first", "second") and re.match(r"sampling:  50%\|.*\| 2/4 \[", bar)
    terminal.progress_done()
    terminal.image(Path("a.png"), 1.25)
    assert out.shown() == ["first", "second", "image: a.png (1.2 s from sound to image)", ""]


def test_the_level_comes_first_while_a_recording_goes_on(monkeypatch):
    terminal, out = terminal_on(monkeypatch, True)
    terminal.progress(1, 4)
    terminal.level(loud(1.0))
    terminal.progress(2, 4)
    terminal.status("loading...")
    terminal.progress_done()
    assert out.shown()[-1].startswith("  1.0 s    -6.0 dBFS  peak   -6.0  [")
    terminal.level(None)
    assert out.shown() == [""]
    terminal.progress(3, 4)
    assert "3/4" in out.shown()[-1]


def test_nothing_is_wider_than_the_terminal(monkeypatch):
    terminal, out = terminal_on(monkeypatch, True)
    monkeypatch.setenv("COLUMNS", "20")
    terminal.status("x" * 50)
    assert out.shown() == ["x" * 19]
    terminal.progress(1, 4)
    assert len(out.shown()[-1]) <= 19


def test_a_log_has_only_lines(monkeypatch):
    terminal, out = terminal_on(monkeypatch, False)
    terminal.status("loading...")
    terminal.progress(1, 4)
    for seconds in (0.5, 1.1, 1.9, 2.0, 3.5):
        terminal.level(loud(seconds))
    terminal.level(None)
    terminal.level(loud(1.2))
    assert "\r" not in out.getvalue()
    assert [line.partition(":")[0] for line in out.shown()] == ["1 s", "2 s", "3 s", "1 s", ""]


def test_the_bar_is_that_of_tqdm_in_seconds_per_step(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert progress_bar(1, 20, 0.0, 1) == "sampling:   5%|▌         | 1/20 [00:00<?, ?s/step]"
    assert progress_bar(10, 20, 5.0) == "sampling:  50%|█████     | 10/20 [00:05<00:05,  0.50s/step]"
    assert progress_bar(11, 21, 5.0, 1) == "sampling:  52%|█████▏    | 11/21 [00:05<00:05,  0.50s/step]"
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert progress_bar(10, 20, 5.0) == "sampling:  50%|#####     | 10/20 [00:05<00:05,  0.50s/step]"


def test_enter_is_noticed_and_the_end_of_input():
    reading, writing = os.pipe()
    keyboard = Keyboard(reading)
    assert not keyboard.pressed() and not keyboard.ended
    os.write(writing, b"\n  q  \nunfinished")
    assert keyboard.wait(lambda: None, after=time.monotonic() + 60) == "q"  # ENTER alone came too early
    os.write(writing, b"\n\n")
    os.close(writing)
    assert keyboard.wait(lambda: None) == "unfinished"
    while not keyboard.pressed():
        time.sleep(0.01)
    assert keyboard.wait(lambda: None) is None and keyboard.ended
    assert Keyboard(None).wait(lambda: None) is None
