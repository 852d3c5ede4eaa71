"""Record a person: ENTER starts, a level meter runs, and an unusable recording is asked for again."""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import cli
import config
from audio import filters, recorder
from audio.recorder import Microphone, MicrophoneError, Recording
from live.display import Display
from live.keyboard import Keyboard
from live.meter import REFRESH, Meter, SpeechEnd
from live.pipeline import Pipeline, Take
from live.prompts import Prompts

TEST_SECONDS = 5.0
QUIT = "q"
MUTED = 2.0  # seconds of exact zeros at the end of a recording of which a person is told
DOUBLE_PRESS = 0.25  # seconds after a recording in which a second ENTER is taken for an accident


class NoKeyboard(RuntimeError):
    """Standard input has ended, so nobody can press ENTER."""

    def __init__(self) -> None:
        """Say what to do instead."""
        super().__init__(
            "standard input is closed, so nobody can press ENTER; give the length of the recording with --seconds N, "
            "or a recording with --input_file F"
        )


@dataclass
class Capture:
    """A microphone, and the keyboard of the person who speaks into it."""

    options: argparse.Namespace
    display: Display
    keyboard: Keyboard
    _microphone: Microphone | None = None  # None: not found yet, or lost
    _stopped: float = 0.0  # time.monotonic() at which the last recording ended

    def prepare(self) -> Microphone:
        """Return the microphone; find it if that was not done yet.

        Raises:
            MicrophoneError: it does not exist, or another program uses it.
        """
        if not self._microphone:
            self._microphone = recorder.find_microphone(self.options.mic, self.options.channel)
        return self._microphone

    def record(self, pipeline: Pipeline) -> Take | None:
        """Record until there is a usable recording; return None if the person ends the run instead.

        If an exception ends a recording, its usable part is among `pipeline.files.unused()`.

        Raises:
            NoKeyboard: ENTER is needed, and standard input has ended.
            MicrophoneError: no sound comes.
            OSError: the recording cannot be written.
            ClientDied: the model cannot be loaded (`Pipeline.check`).
        """
        filters.load_early()  # for the meter
        while True:
            if len(pipeline.prompts.all) > 1:
                self.display.say(f"{pipeline.prompts} (a number and ENTER chooses another one)")
            asked = time.monotonic()
            self.display.say("Press ENTER to start recording...")
            typed = self.keyboard.wait(pipeline.check, asked, self._stopped + DOUBLE_PRESS)
            if self.options.loop and (typed is None or typed.casefold() == QUIT):
                return None
            if typed is None and not self.options.seconds:
                raise NoKeyboard
            if typed and self._chosen(typed, pipeline.prompts):
                continue
            take, fault = self._try(pipeline)
            if take:
                self._stopped = take.stopped
                return take
            if self.keyboard.ended:
                raise RuntimeError(f"{fault} Nothing was recorded, and standard input has ended.")
            self.display.warn(f"{fault} Please record again.")

    def _chosen(self, typed: str, prompts: Prompts) -> bool:
        """Choose the prompt whose number was typed; return whether it was a number, and there are several prompts."""
        if len(prompts.all) == 1 or not typed.isdecimal():
            return False
        if not prompts.choose(int(typed[:9])):
            self.display.warn(f"there is no prompt {typed[:9]}; choose from 1 to {len(prompts.all)}")
        return True

    def _try(self, pipeline: Pipeline) -> tuple[Take | None, str]:
        """Return one recording, or what is wrong with it as a sentence.

        In a loop a failure of the microphone or the disk is such a sentence, too, because it may pass.
        """
        try:
            return self._record_once(pipeline.files.new_recording())
        except (MicrophoneError, OSError) as error:
            if not self.options.loop:
                raise
            recorder.forget_devices()
            self._microphone = None  # the numbers of devices may have changed
            return None, f"{cli.describe(error)}."

    def test(self) -> bool:
        """Run the meter for five seconds and print a verdict; return whether there was sound."""
        microphone = self.prepare()
        seconds = self.options.seconds or TEST_SECONDS
        meter = Meter(microphone.sample_rate)  # first, because it loads scipy
        self.display.say(f"microphone: {microphone.name}, {_channels(microphone)}; speak for {seconds:g} s")
        with tempfile.TemporaryDirectory() as folder:
            self._run_meter(Path(folder, "test.wav"), meter, None, lambda: meter.seconds >= seconds, "")
        self.display.say(meter.verdict())
        return not meter.silent

    def _record_once(self, path: Path) -> tuple[Take | None, str]:
        """Record to `path` from one ENTER to the next; an unusable recording is deleted."""
        options, keyboard = self.options, self.keyboard
        sample_rate = self.prepare().sample_rate
        meter = Meter(sample_rate)
        speech = SpeechEnd(sample_rate, options.auto_stop) if options.auto_stop else None

        def stop() -> bool:
            return (
                keyboard.pressed()
                or bool(options.seconds and meter.seconds >= options.seconds)
                or bool(speech and speech.reached)
                or (keyboard.ended and not options.seconds)
            )

        try:
            recording = self._run_meter(path, meter, speech, stop, "Recording... Press ENTER to stop.")
        except (KeyboardInterrupt, SystemExit):
            if meter.fault:
                path.unlink(missing_ok=True)
            raise
        if meter.fault:
            path.unlink(missing_ok=True)
        self._warn(recording, meter)
        if meter.fault:
            return None, self._fault(meter)
        summary = f"recorded {recording.seconds:.1f} s at {recording.sample_rate} Hz, level {meter.rms_dbfs:.0f} dBFS"
        return Take(path, own=True, stopped=recording.stopped, summary=summary), ""

    def _warn(self, recording: Recording, meter: Meter) -> None:
        """Warn of everything that makes a recording worse than it could be."""
        if recording.note and not meter.fault:
            self.display.warn(f"note: {recording.note}")
        if recording.ended_by:
            self.display.warn(f"warning: {recording.ended_by}; the recording up to there is used")
            self._microphone = None
        if gaps := recording.overflows:
            self.display.warn(f"warning: {cli.counted(gaps, 'gap')} in the recording; the computer was too busy")
        if recording.zeros >= MUTED and not meter.fault:
            self.display.warn(
                f"warning: the last {recording.zeros:.1f} s are exact zeros: the microphone was muted or unplugged, or "
                "another one took its place; the recording is used all the same"
            )
        if meter.warning and not meter.fault:
            self.display.warn(f"warning: {meter.warning}")

    def _fault(self, meter: Meter) -> str:
        """Return why the recording cannot be used; if it is silent, also how many channels were recorded."""
        if meter.seconds < config.SHORT_SECONDS or not self._microphone:
            return meter.fault
        recorded = _channels(self._microphone)
        self._microphone = None  # there may be another source behind it next time
        return f"{meter.fault} ({recorded} recorded; --list_mics shows all microphones.)"

    def _run_meter(
        self, path: Path, meter: Meter, speech: SpeechEnd | None, stop: Callable[[], bool], announcement: str
    ) -> Recording:
        """Record to `path` until `stop()`; show the meter meanwhile, and the announcement when the first sound came."""
        display = self.display
        shown = time.monotonic()

        def on_block(block: np.ndarray, clipped: int) -> None:
            meter.add(block, clipped)
            if speech:
                speech.add(block)

        def poll() -> bool:
            nonlocal shown
            if time.monotonic() - shown >= REFRESH:
                shown = time.monotonic()
                display.level(meter)
            return stop()

        def started() -> None:
            if announcement:
                display.say(announcement)

        try:
            return recorder.record(path, self.prepare(), poll, started, on_block)
        except MicrophoneError:
            self._microphone = None
            raise
        finally:
            display.level(None)


def _channels(microphone: Microphone) -> str:
    """Name the channels that are recorded."""
    if microphone.channel:
        return f"channel {microphone.channel} of {microphone.channels}"
    return cli.counted(microphone.channels, "channel")
