"""Where people speak: ENTER, a meter while they do, and another try where there was nothing."""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import cli
from audio import recorder
from audio.recorder import Microphone, MicrophoneError, Recording
from live.folder import ShowFolder
from live.meter import REFRESH, Meter, SpeechEnd
from live.show import KEPT, Take
from live.terminal import Keyboard, Screen

TEST_SECONDS = 5.0
QUIT = "q"
DOUBLE = 0.25  # seconds after a recording in which ENTER is the same ENTER, pressed twice by accident


class NobodyThere(RuntimeError):
    """Standard input has ended, so that nobody can press ENTER."""

    def __init__(self) -> None:
        super().__init__(
            "standard input is closed, so nobody can press ENTER; say how long with --seconds N, or give a recording: "
            "--input_file F"
        )


@dataclass
class Booth:
    """A microphone, and the person before it."""

    options: argparse.Namespace
    screen: Screen
    folder: ShowFolder
    keyboard: Keyboard
    _microphone: Microphone | None = None  # None: it is to be looked for
    _stopped: float = 0.0  # time.monotonic() at which the last recording ended

    def prepare(self) -> None:
        """Find the microphone, before anyone is asked to speak.

        Raises:
            MicrophoneError: it is not there, or busy.
        """
        if not self._microphone:
            self._microphone = recorder.find_microphone(self.options.mic)

    def record(self, meanwhile: Callable[[], None], speaking: Callable[[bool], None]) -> Take | None:
        """Record until there is something to make a picture of; None if the person ends the show instead.

        Args:
            meanwhile: called while ENTER is waited for.
            speaking: told when somebody speaks, and when no more.

        Raises:
            NobodyThere: ENTER is needed, and standard input has ended.
            MicrophoneError: no sound comes.
            OSError: the recording cannot be written.
        """
        while True:
            self.screen.say("Press ENTER to start recording...")
            typed = self.keyboard.wait(meanwhile, self._stopped + DOUBLE)
            if self.options.loop and (typed is None or typed.casefold() == QUIT):
                return None
            if typed is None and not self.options.seconds:
                raise NobodyThere
            take, fault = self._try(speaking)
            if take:
                self._stopped = take.stopped
                return take
            if self.keyboard.ended:
                raise RuntimeError(f"{fault}: there is nothing to make a picture of")
            self.screen.warn(f"{fault}: once more, please.")

    def _try(self, speaking: Callable[[bool], None]) -> tuple[Take | None, str]:
        """One recording, or what was wrong with it; in a loop also with the microphone or the disk, which may mend."""
        try:
            self.prepare()
            speaking(True)
            return self._record_once(self.folder.new_recording())
        except (MicrophoneError, OSError) as error:
            if not self.options.loop:
                raise
            recorder.forget_devices()
            return None, cli.describe(error)
        finally:
            speaking(False)

    def test(self) -> str:
        """Five seconds of meter; return the verdict."""
        self.prepare()
        seconds = self.options.seconds or TEST_SECONDS
        self.screen.say(f"microphone: {self._microphone.name}; speak for {seconds:g} s")
        path = self.folder.new_recording()
        try:
            meter = Meter(self._microphone.sample_rate)
            self._listen(path, meter, None, lambda: meter.seconds >= seconds, "")
        finally:
            path.unlink(missing_ok=True)
        return meter.verdict()

    def _record_once(self, path: Path) -> tuple[Take | None, str]:
        """From one ENTER to the next: a recording, or why it is none. What cannot be used is deleted."""
        options, keyboard = self.options, self.keyboard
        meter = Meter(self._microphone.sample_rate)
        speech = SpeechEnd(self._microphone.sample_rate, options.auto_stop) if options.auto_stop else None

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
            self._keep(path, meter)
            raise
        if recording.ended_by:
            self.screen.warn(f"warning: {recording.ended_by}; what was recorded is used")
            self._microphone = None
        if recording.overflows:
            self.screen.warn(f"warning: {recording.overflows} gaps in the recording, the machine was too busy")
        if meter.fault:
            path.unlink(missing_ok=True)
            return None, meter.fault
        self.screen.say(
            f"recorded {recording.seconds:.1f} s at {recording.sample_rate} Hz, level {meter.rms_dbfs:.0f} dBFS: "
            f"{self.folder.wav}"
        )
        if meter.warning:
            self.screen.warn(f"warning: {meter.warning}")
        return Take(path, own=True, stopped=recording.stopped), ""

    def _keep(self, path: Path, meter: Meter) -> None:
        """Of a recording that was interrupted: what is worth it, never in the place of another picture's."""
        if not path.exists():
            return
        if meter.fault:
            path.unlink()
        else:
            kept = self.folder.set_aside(path, self.folder.wav.stem) if self.options.loop else self.folder.publish(path)
            self.screen.warn(f"{KEPT}: {kept}")

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
            return recorder.record(path, self._microphone, poll, started, heard)
        except MicrophoneError:
            self._microphone = None
            raise
        finally:
            screen.status("")
