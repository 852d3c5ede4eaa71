"""How often ENTER was pressed, at a terminal and in a pipe."""

import os
import pty
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from live import keyboard
from live.keyboard import Keyboard
from tests.programs import wait_until


class Nothing(Exception):
    """Raised while nothing is typed that counts."""


class Hands:
    """Someone who types at a terminal, at times of a simulated clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=time.sleep)
        monkeypatch.setattr(keyboard, "time", clock)
        self.terminal, self.program_side = pty.openpty()
        self.keyboard = Keyboard(self.program_side)

    def type(self, text: str, after: float = 0.0) -> None:
        """Type lines, `after` seconds."""
        self.now += after
        before = self.keyboard._lines.qsize()
        os.write(self.terminal, text.encode())
        wait_until(lambda: self.keyboard._lines.qsize() == before + text.count("\n"))

    def answers(self) -> str | None:
        """Return what was typed at the prompt that is shown now."""

        def meanwhile() -> None:
            raise Nothing

        return self.keyboard.wait(meanwhile, self.now)

    def press_in_a_recording(self, *gaps: float) -> list[bool]:
        """Press ENTER after each of some times; return what the recording is told, 0.2 s after the last one, too."""
        told = []
        for gap in gaps:
            self.type("\n", gap)
            told.append(self.keyboard.pressed())
        self.now += 0.2
        return [*told, self.keyboard.pressed()]


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hands]:
    someone = Hands(monkeypatch)
    yield someone
    os.close(someone.terminal)
    os.close(someone.program_side)


@pytest.fixture
def begins(hands: Hands) -> Callable[[], None]:
    """Return a function that starts a recording."""

    def begin() -> None:
        def meanwhile() -> None:
            hands.type("\n", 1.0)

        assert hands.keyboard.wait(meanwhile, hands.now) == ""

    return begin


def test_one_press_starts_and_one_stops(hands, begins):
    begins()
    assert hands.press_in_a_recording(1.0) == [True, False]


def test_a_key_that_is_held_down_starts_one_recording_and_stops_none(hands, begins):
    begins()
    assert not any(hands.press_in_a_recording(0.5, *[0.033] * 50))
    assert hands.press_in_a_recording(1.0) == [True, False]


@pytest.mark.parametrize("gap", [0.0, 0.1])
def test_a_press_that_bounces_stops_nothing(hands, begins, gap):
    begins()
    assert hands.press_in_a_recording(gap) == [False, False]


def test_a_quick_person_is_understood_a_moment_later(hands, begins):
    begins()
    assert hands.press_in_a_recording(0.4) == [False, True]


def test_the_key_that_stopped_a_recording_starts_no_other_one(hands, begins):
    begins()
    hands.type("\n", 1.0)
    assert hands.keyboard.pressed()
    for gap in (0.5, *[0.033] * 20):  # it is still held down
        hands.type("\n", gap)
    with pytest.raises(Nothing):
        hands.answers()
    begins()


def test_what_was_typed_before_the_prompt_starts_nothing(hands):
    hands.type("\n\n")
    hands.now += 3.0
    with pytest.raises(Nothing):
        hands.answers()


def test_words_count_whenever_they_were_typed(hands):
    hands.type("\nq\n")
    hands.now += 3.0
    assert hands.answers() == "q"


def test_pasted_lines_start_one_recording_and_stop_none(hands):
    hands.type("some text\nthat was pasted\n\nby accident\n")
    assert hands.answers() == "some text"
    assert not hands.keyboard.pressed()
    hands.now += 1.0
    assert not hands.keyboard.pressed()
    assert hands.press_in_a_recording(1.0) == [True, False]


def test_a_program_means_each_line(monkeypatch):
    reading, writing = os.pipe()
    os.write(writing, b"\n\nq\n")
    os.close(writing)
    lines = Keyboard(reading)
    wait_until(lambda: lines._lines.qsize() == 3)
    assert lines.wait(lambda: None) == "" and lines.pressed() and lines.wait(lambda: None) == "q"
    assert lines.wait(lambda: None) is None and lines.ended
