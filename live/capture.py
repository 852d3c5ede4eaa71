"""Where people speak: ENTER, a meter while they do, and another try where there was nothing."""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import cli
from audio import recorder
from audio.recorder import Microphone, MicrophoneError, Recording
from live.meter import REFRESH, Meter, SpeechEnd
from live.pipeline import Show, Take
from live.terminal import Keyboard, Screen

TEST_SECONDS = 5.0
QUIT = "q"
DOUBLE = 0.25  # seconds after a recording in which ENTER is the same ENTER, pressed twice by accident


class NoKeyboard(RuntimeError):
    """Standard input has ended, so that nobody can press ENTER."""

    def __init__(self) -> None:
        super().__init__(
            "standard input is closed, so nobody can press ENTER; say how long with --seconds N, or give a recording: "
            "--input_file F"
        )


@dataclass
class Capture:
    """A microphone, and the person before it."""

    options: argparse.Namespace
    screen: Screen
    keyboard: Keyboard
    _microphone: Microphone | None = None  # None: it is to be looked for
    _stopped: float = 0.0  # time.monotonic() at which the last recording ended

    def prepare(self) -> Microphone:
        """The microphone, which is looked for once, before anyone is asked to speak.

        Raises:
            MicrophoneError: it is not there, or busy.
        """
        if not self._microphone:
            self._microphone = recorder.find_microphone(self.options.mic)
        return self._microphone

    def record(self, show: Show) -> Take | None:
        """Record until there is something to make a picture of; None if the person ends the show instead.

        Whatever ends the recording early, what there is of it, if it is worth that, is among `show.folder.unused()`.

        Raises:
            NoKeyboard: ENTER is needed, and standard input has ended.
            MicrophoneError: no sound comes.
            OSError: the recording cannot be written.
            ClientDied: the show cannot go on, `Show.check`.
        """
        while True:
            self.screen.say("Press ENTER to start recording...")
            typed = self.keyboard.wait(show.check, self._stopped + DOUBLE)
            if self.options.loop and (typed is None or typed.casefold() == QUIT):
                return None
            if typed is None and not self.options.seconds:
                raise NoKeyboard
            take, fault = self._try(show)
            if take:
                self._stopped = take.stopped
                return take
            if self.keyboard.ended:
                raise RuntimeError(f"{fault}: there is nothing to make a picture of")
            self.screen.warn(f"{fault}: once more, please.")

    def _try(self, show: Show) -> tuple[Take | None, str]:
        """One recording, or what was wrong with it; in a loop also with the microphone or the disk, which may mend."""
        try:
            self.prepare()
            show.speaking(True)
            return self._record_once(show.folder.new_recording())
        except (MicrophoneError, OSError) as error:
            if not self.options.loop:
                raise
            recorder.forget_devices()
            self._microphone = None  # numbers of devices may have changed
            return None, cli.describe(error)
        finally:
            show.speaking(False)

    def test(self) -> bool:
        """Five seconds of meter, and the verdict; return whether anything was to be heard."""
        microphone = self.prepare()
        seconds = self.options.seconds or TEST_SECONDS
        self.screen.say(f"microphone: {microphone.name}; speak for {seconds:g} s")
        meter = Meter(microphone.sample_rate)
        with tempfile.TemporaryDirectory() as folder:
            self._listen(Path(folder, "test.wav"), meter, None, lambda: meter.seconds >= seconds, "")
        self.screen.say(meter.verdict())
        return not meter.silent

    def _record_once(self, path: Path) -> tuple[Take | None, str]:
        """From one ENTER to the next: a recording, or why it is none. What cannot be used is deleted."""
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
            recording = self._listen(path, meter, speech, stop, "Recording... Press ENTER to stop.")
        except (KeyboardInterrupt, SystemExit):
            if meter.fault:
                path.unlink(missing_ok=True)
            raise
        if recording.ended_by:
            self.screen.warn(f"warning: {recording.ended_by}; what was recorded is used")
            self._microphone = None
        if recording.overflows:
            self.screen.warn(f"warning: {recording.overflows} gaps in the recording, the machine was too busy")
        if meter.fault:
            path.unlink(missing_ok=True)
            return None, meter.fault
        if meter.warning:
            self.screen.warn(f"warning: {meter.warning}")
        facts = f"recorded {recording.seconds:.1f} s at {recording.sample_rate} Hz, level {meter.rms_dbfs:.0f} dBFS"
        return Take(path, own=True, stopped=recording.stopped, facts=facts), ""

    def _listen(
        self, path: Path, meter: Meter, speech: SpeechEnd | None, stop: Callable[[], bool], announcement: str
    ) -> Recording:
        """Record with the meter on: a line that moves in a terminal, a line a second elsewhere."""
        screen = self.screen
        shown, told = time.monotonic(), 0  # when the meter was shown, how many seconds were told of

        def heard(block: np.ndarray, clipped: int) -> None:
            meter.hear(block, clipped)
            if speech:
                speech.hear(block)

        def poll() -> bool:
            nonlocal shown, told
            if screen.is_terminal and time.monotonic() - shown >= REFRESH:
                shown = time.monotonic()
                screen.status(meter.line(screen.width))
            elif not screen.is_terminal and int(meter.seconds) > told:
                told = int(meter.seconds)
                screen.say(meter.plain())
            return stop()

        def started() -> None:
            if announcement:
                screen.say(announcement)

        try:
            return recorder.record(path, self.prepare(), poll, started, heard)
        except MicrophoneError:
            self._microphone = None
            raise
        finally:
            screen.status("")
