"""How a person is asked to record; sound from here stands in place of the microphone."""

import os
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import config
import run_live_workflow
from audio import recorder
from audio.recorder import Microphone, MicrophoneError, Recording
from live import capture
from live.capture import Capture, NoKeyboard
from live.keyboard import Keyboard
from live.pipeline import Pipeline, Take
from live.run_files import claim_run_files
from tests.display import RecordingDisplay

RATE = 16_000
BLOCK = 160  # samples
ASK, RECORDING = "Press ENTER to start recording...", "Recording... Press ENTER to stop."


def voice(seconds: float, amplitude: float = 0.3) -> np.ndarray:
    return (amplitude * np.sin(np.arange(round(seconds * RATE)))).astype(np.float32)


class Microphones:
    """A microphone that hears the given sounds, one a recording; an exception is raised in place of a recording."""

    def __init__(self, *sounds: np.ndarray | Exception) -> None:
        self._sounds = iter(sounds)
        self.stopped_after = 0.0  # seconds

    def record(
        self,
        path: Path,
        microphone: Microphone,
        stop: Callable[[], bool],
        started: Callable[[], None],
        on_block: Callable[[np.ndarray, int], None],
    ) -> Recording:
        """Do as `recorder.record`, without waiting."""
        sound = next(self._sounds)
        if isinstance(sound, Exception):
            raise sound
        started()
        for end in range(BLOCK, len(sound) + 1, BLOCK):
            on_block(sound[end - BLOCK : end], 0)
            self.stopped_after = end / RATE
            if stop():
                break
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes((sound * 32767).astype(np.int16).tobytes())
        zeros = (len(sound) - 1 - int(np.flatnonzero(sound)[-1])) / RATE if sound.any() else self.stopped_after
        return Recording(path, self.stopped_after, RATE, 1, 0, time.monotonic(), "", zeros=zeros)


class Person(RecordingDisplay):
    """A display whose reader presses ENTER when asked to, as often as there are words to type before it."""

    def __init__(self, *words: str) -> None:
        super().__init__()
        self._words = iter(words)
        reading, self._writing = os.pipe()
        self.keyboard = Keyboard(reading)

    def say(self, line: str) -> None:
        super().say(line)
        if line == ASK:
            try:
                os.write(self._writing, f"{next(self._words)}\n".encode())
            except StopIteration:
                os.close(self._writing)


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Take | None]]:
    monkeypatch.setattr(config, "ROOT_DIR", tmp_path)
    monkeypatch.setattr(config, "TEMP_AUDIO_WAV", tmp_path / "temp_live_audio.wav")
    monkeypatch.setattr(capture, "REFRESH", 0.0)
    monkeypatch.setattr(recorder, "find_microphone", lambda *_: Microphone(0, "test", RATE, 1))
    monkeypatch.setattr(recorder, "forget_devices", lambda: None)

    with claim_run_files() as files:

        def make(person: Person, microphones: Microphones, *words: str) -> Take | None:
            monkeypatch.setattr(recorder, "record", microphones.record)
            options = run_live_workflow.parse([*words])
            return Capture(options, person, person.keyboard).record(Pipeline(options, person, files))

        yield make


def test_a_person_is_asked_again_until_a_recording_is_usable(record, tmp_path):
    person = Person("", "", "")
    take = record(person, Microphones(voice(0.1), voice(1.0, 0.0), voice(1.0)))
    others = "(1 channel recorded; --list_mics shows all microphones.)"
    assert person.of("say", "warn") == [
        ("say", ASK),
        ("say", RECORDING),
        ("warn", "Only 0.10 s recorded; at least 0.3 s are needed. Please record again."),
        ("say", ASK),
        ("say", RECORDING),
        (
            "warn",
            f"No sound recorded. Is the microphone on? {others} Please record again.",
        ),
        ("say", ASK),
        ("say", RECORDING),
    ]
    assert take.own and take.summary == "recorded 1.0 s at 16000 Hz, level -13 dBFS"
    assert list(tmp_path.glob(".*.wav")) == [take.path]


@pytest.mark.parametrize(("seconds", "told"), [(1.0, False), (3.0, True)])
def test_a_microphone_that_was_muted_in_the_middle_is_told_of(record, seconds, told):
    person = Person("")
    take = record(person, Microphones(np.concatenate([voice(1.0), voice(seconds, 0.0)])))
    assert take.path.is_file()
    assert [line.split(":")[1] for line in person.lines("warn")] == [" the last 3.0 s are exact zeros"] * told


def test_another_source_is_looked_for_after_silence(record, monkeypatch):
    channels = iter([2, 4])
    monkeypatch.setattr(recorder, "find_microphone", lambda *_: Microphone(0, "test", RATE, next(channels)))
    person = Person("", "")
    assert record(person, Microphones(voice(1.0, 0.0), voice(1.0)))
    assert "(2 channels recorded;" in person.lines("warn")[0] and next(channels, None) is None


def test_a_display_is_shown_the_level_until_the_end(record):
    person = Person("")
    record(person, Microphones(voice(1.0)))
    *levels, last = [level for _, level in person.of("level")]
    assert last is None and levels == pytest.approx(np.arange(1, 101) / 100)


@pytest.mark.parametrize(
    ("words", "seconds"), [(["--seconds", "0.5"], 0.5), (["--auto_stop", "0.4"], 1.4)], ids=["seconds", "auto_stop"]
)
def test_a_recording_ends_by_itself(record, words, seconds):
    microphones = Microphones(np.concatenate([voice(1.0), voice(2.0, 0.0)]))
    record(Person(""), microphones, *words)
    assert microphones.stopped_after == pytest.approx(seconds, abs=0.06)


def test_a_loop_survives_its_microphone_and_ends_with_q(record):
    person = Person("", "", "q")
    microphones = Microphones(MicrophoneError("the microphone went away"), OSError(28, "No space left", "a.wav"))
    assert record(person, microphones, "--loop") is None
    assert [line.partition(" Please ")[0] for line in person.lines("warn")] == [
        "the microphone went away.",
        "a.wav: no space left: free some space, or set VOICETOIMG_DATA_DIR to a folder on another disk.",
    ]


def test_a_failure_of_the_microphone_ends_a_single_recording(record):
    with pytest.raises(MicrophoneError, match="went away"):
        record(Person(""), Microphones(MicrophoneError("the microphone went away")))


def test_standard_input_that_ends(record):
    with pytest.raises(NoKeyboard):
        record(Person(), Microphones())
    assert record(Person(), Microphones(), "--loop") is None
    assert record(Person(), Microphones(voice(1.0)), "--seconds", "0.5")


def test_an_unusable_recording_without_anyone_at_the_keyboard_is_an_error(record, tmp_path):
    with pytest.raises(RuntimeError, match=r"No sound recorded\..* Nothing was recorded, and standard input has ended"):
        record(Person(), Microphones(voice(1.0, 0.0)), "--seconds", "0.5")
    assert not list(tmp_path.glob(".*.wav"))


def test_a_prompt_is_chosen_by_its_number(record, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red flower\ncyan rings\na blue fish\n")
    person = Person("3", "4", "9" * 5000, "")
    take = record(person, Microphones(voice(1.0)), "--prompts", str(tmp_path / "prompts.txt"))
    asked = [line for line in person.lines("say") if line.startswith("prompt ")]
    how = "(a number and ENTER chooses another one)"
    assert asked == [f"prompt 1 of 3: a red flower {how}", *[f"prompt 3 of 3: a blue fish {how}"] * 3]
    assert person.lines("warn") == [f"there is no prompt {n}; choose from 1 to 3" for n in ("4", "9" * 9)]
    assert take is not None and person.lines("say")[-1] == RECORDING


def test_one_prompt_leaves_numbers_alone(record):
    assert record(Person("3"), Microphones(voice(1.0))) is not None
