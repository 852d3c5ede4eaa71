"""A show: recordings are taken, and each becomes a picture while the next one may be taken.

Recording goes on in the main thread, pictures are made in one other, by two scripts that stand by (live/client.py).
"""

import argparse
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cli
import config
from files import alternatives, reserved
from live import client
from live.client import Answer, ClientDied, ClientError, ScriptClient
from live.run_files import RunFiles
from live.session import Session
from live.terminal import Screen
from live.viewer import open_in_viewer

KEPT = "the recording is kept"
EARLIER_KEPT = "an earlier recording, of which no picture was made, is kept"
PICTURE = "picture: "  # how txt2img.py names a file it wrote
MOST_STEPS = 50  # of DPM-Solver++(2M), which more hardly change
MEASURED_STEPS = (1, 5)  # of the two pictures that tell how long a step takes
SPARE = 0.05  # share of a budget that is not planned for

Result = TypeVar("Result")


@dataclass(eq=False)
class Take:
    """A recording that is to become a picture."""

    path: Path  # where it lies now
    own: bool  # recorded by this show, and not a file of the user's
    stopped: float  # time.monotonic() at which its sound was complete
    facts: str = ""  # to be told of it
    heard: bool = False  # its latent is in the show's


@dataclass
class Speed:
    """How long the painter takes, as last measured."""

    fixed: float  # seconds a picture, whatever the steps
    a_step: float  # seconds

    def seconds_for(self, steps: int) -> float:
        return self.fixed + steps * self.a_step

    def steps_within(self, seconds: float) -> int:
        steps = int((seconds * (1 - SPARE) - self.fixed) / self.a_step)
        return max(1, min(MOST_STEPS, steps))

    def learn(self, steps: int, seconds: float) -> None:
        """Take a picture's time for the speed of now: other programs come and go."""
        factor = seconds / self.seconds_for(steps)
        self.fixed, self.a_step = self.fixed * factor, self.a_step * factor


class Show:
    """The scripts, and what becomes of recordings. `with`: at the end no script is left."""

    def __init__(self, options: argparse.Namespace, screen: Screen, folder: RunFiles) -> None:
        self.options, self.screen, self.folder = options, screen, folder
        self.failed = 0  # takes of which there is no picture
        self._session = Session(config.SESSIONS_DIR) if options.keep else None
        self._speed: Speed | None = None
        self._measured: Future[None] | None = None  # done when the speed is known
        self._told: set[str] = set()
        self._began = self._speaking = self._closing = False
        self._waiting: list[Take] = []  # the first of them is being worked on
        self._thread = ThreadPoolExecutor(1)
        self.listener = ScriptClient(config.REPO_DIR / "process_live_audio.py", [], self._progress, options.timeout)
        self.painter = ScriptClient(config.REPO_DIR / "txt2img.py", options.painting, self._progress, options.timeout)

    def __enter__(self) -> "Show":
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()

    def start(self) -> None:
        """Start the scripts, unless each is started only when it is needed; return at once."""
        if self.options.no_standby:
            return
        self.painter.start()
        self.listener.start()
        if self.options.budget:
            self._measured = self._thread.submit(self._measure)

    def await_calibration(self) -> None:
        """Wait for what is soon known to work, while the model is still loading; and for the speed that a budget needs.

        Raises:
            ClientError: it does not work.
        """
        if not self.options.no_standby:
            self.listener.await_ready()
        if self._measured:
            self.screen.say("measuring how fast this machine paints...")
            while not self._measured.done():
                time.sleep(0.02)  # not result() at once: on Windows Ctrl-C would not end it
            self._measured.result()

    def check(self) -> None:
        """Raises ClientDied if the model turned out to be unusable before the first recording."""
        if not self._began:
            self.painter.check()

    def speaking(self, now: bool) -> None:
        """Whether somebody speaks, so that the terminal's status belongs to the meter."""
        self._speaking = now
        self.screen.status("")

    def take(self, take: Take) -> None:
        """Make the picture of a recording, after those before it; return at once."""
        self._began = True
        if take.facts:
            before = len(self._waiting)
            turn = f"; its picture comes after {before} other{'s' * (before > 1)}"
            self.screen.say(f"{take.facts}{turn if before else f': {self.folder.wav}'}")
        self._waiting.append(take)
        self._thread.submit(self._make, take)

    def finish(self) -> None:
        """Wait until all pictures are made."""
        if self.options.loop and (left := len(self._waiting)):
            self.screen.say(f"{left} {'pictures are' if left > 1 else 'picture is'} still to be made")
        while self._waiting:
            time.sleep(0.02)  # not a join: on Windows Ctrl-C would not end it

    def abandon(self) -> list[Path]:
        """End everything; return where the recordings of this show are that no picture has been made of."""
        self._closing = True
        client.end([self.listener, self.painter])
        self._thread.shutdown(cancel_futures=True)
        self.screen.status("")
        used = [take.path for take in self._waiting if take.own and take.path == self.folder.wav]
        self._waiting = []
        return [self._kept(path) for path in (*used, *self.folder.unused())]

    # --- one picture, in the other thread ----------------------------------------------------------------------------
    def _make(self, take: Take) -> None:
        if self._closing:
            return
        try:
            if take.own:
                take.path = self._publish(take.path)
            picture = self._picture_of(take)
            seconds = time.monotonic() - take.stopped
            self.screen.say(f"{PICTURE}{picture} ({seconds:.1f} s from sound to picture)")
            if take.own:
                self.folder.painted()
            self._present(take, picture)
        except Exception as error:  # a bug must not end the show, either
            if self._closing:
                return  # who ends it tells of the recording
            self.failed += 1
            with suppress(Exception):  # nobody is left to tell; else `finish` would wait for ever
                self._lament(take, error)
        self._waiting.remove(take)

    def _publish(self, recording: Path) -> Path:
        if earlier := self.folder.publish(recording):
            self.screen.say(f"{EARLIER_KEPT}: {earlier}")
        return self.folder.wav

    def _kept(self, path: Path) -> Path:
        """Where a recording of which there is no picture is from now on: in a loop no later one replaces it."""
        with suppress(OSError):  # then it stays where it is, and the next show finds it
            if self.options.loop:
                return self.folder.set_aside(path)
            if path != self.folder.wav:
                return self._publish(path)
        return path

    def _picture_of(self, take: Take) -> Path:
        heard = self._ask(self.listener, input_file=str(take.path), output_file=str(self.folder.latent))
        take.heard = True
        self._tell(heard.said, heard.warned if not take.own else [])  # of its own the recorder has said the same
        steps = self._steps(take)
        started = time.monotonic()
        latent = str(self.folder.latent)
        painted = self._ask(self.painter, init_latents=latent, ddim_steps=steps)
        if self._speed:
            self._speed.learn(steps, time.monotonic() - started)
        self._tell(painted.said, painted.warned)
        if not painted.content.get("pictures"):
            raise ClientError(f"{self.painter.name} ended without naming a picture")
        return Path(painted.content["pictures"][0])

    def _ask(self, script: ScriptClient, **request: object) -> Answer:
        """Ask a script."""
        if self._closing:
            raise ClientDied("the show has ended", had_worked=False)
        try:
            return self._twice(lambda: script.ask(**request))
        finally:
            if self.options.no_standby:
                client.end([script])

    def _twice(self, work: Callable[[], Result]) -> Result:
        """Do what a script is needed for; if one dies of it that had worked, once more, which starts it again."""
        try:
            return work()
        except ClientDied as error:
            if self._closing or not error.had_worked:
                raise
            self.screen.warn(f"{error}; it is started again")
            return work()

    def _tell(self, said: Iterable[str], warned: Iterable[str]) -> None:
        """Show lines of a script: what it says of every picture alike once, and not what its user should do next."""
        for line, show in [*((line, self.screen.say) for line in said), *((line, self.screen.warn) for line in warned)]:
            if line not in self._told and not line.startswith((PICTURE, "next: ")):
                show(line)
            self._told.add(line)

    def _lament(self, take: Take, error: Exception) -> None:
        """Say why there is no picture, and of what recording; where one of the show's own is, which none replaces."""
        _show_traceback(error, self.screen)
        reason = _reason(error).replace(f"{take.path}: ", "")
        if not take.own:
            self.screen.warn(f"{cli.program()}: {take.path}: {reason}")
            return
        if take.heard and self.options.loop:
            with suppress(OSError):
                self.folder.set_aside(self.folder.latent)
        self.screen.warn(f"{cli.program()}: {reason}; {KEPT}: {self._kept(take.path)}")

    # --- how long it may take ----------------------------------------------------------------------------------------
    def _measure(self) -> None:
        """Note how long two pictures take."""
        fast, slow = self._twice(self._seconds_painted)
        few, many = MEASURED_STEPS
        a_step = max((slow - fast) / (many - few), slow / 1000)
        self._speed = Speed(max(0.0, fast - few * a_step), a_step)

    def _seconds_painted(self) -> list[float]:
        """Paint pictures of noise, to nowhere, of MEASURED_STEPS."""
        seconds = []
        with tempfile.TemporaryDirectory() as folder:
            self.painter.await_ready()
            for steps in MEASURED_STEPS:
                started = time.monotonic()
                painted = self.painter.ask(ddim_steps=steps, outdir=folder)
                self._tell([], painted.warned)
                seconds.append(time.monotonic() - started)
        return seconds

    def _steps(self, take: Take) -> int:
        if not self._speed:
            return self.options.steps
        left = self.options.budget - (time.monotonic() - take.stopped)
        steps = self._speed.steps_within(left)
        needed = self._speed.seconds_for(steps)
        many = f"{steps} steps of DPM-Solver++ take" if steps > 1 else "1 step of DPM-Solver++ takes"
        self.screen.say(f"{many} {needed:.1f} s; {max(left, 0.0):.1f} s of the budget are left")
        if needed > left:
            self.screen.warn(f"warning: the picture comes later than after {self.options.budget:g} s")
        return steps

    # --- showing -----------------------------------------------------------------------------------------------------
    def _present(self, take: Take, picture: Path) -> None:
        """What may be done with a picture beside making it. Whatever fails here does not stop the show."""
        card: list[Path] = []
        if self.options.card:
            self._try(lambda: card.append(self._card(take, picture)))
        if session := self._session:
            self._try(lambda: self._keep(session, take, picture, card))
        if self.options.open:
            self._try(lambda: open_in_viewer(card[0] if card else picture))
        if self.options.discard_audio:
            self._try(lambda: take.path.unlink(missing_ok=True))

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # a bug in what only decorates costs no picture
            _show_traceback(error, self.screen)
            self.screen.warn(f"warning: {_reason(error)}")

    def _keep(self, session: Session, take: Take, picture: Path, card: list[Path]) -> None:
        recording = None if self.options.discard_audio else take.path
        session.add(self.options.prompt, picture, self.folder.latent, recording, card[0] if card else None)
        self._tell([f"session: {session.page}"], [])

    def _card(self, take: Take, picture: Path) -> Path:
        from audio.features import Recipe
        from live.card import save_card

        with reserved(config.OUTPUT_DIR / "cards", alternatives(picture.name)) as path:
            save_card(take.path, picture, self.options.prompt, path, Recipe(**config.RECIPE))
        self.screen.say(f"card: {path}")
        return path

    def _progress(self, bar: str) -> None:
        if self._waiting and not self._speaking:  # not while the speed is measured
            self.screen.status(bar)


def _reason(error: Exception) -> str:
    """One line; of an error that nobody has foreseen also what kind it is, since its text may be one word."""
    if isinstance(error, (ValueError, OSError, RuntimeError, MemoryError)):
        return cli.describe(error)
    return (
        f"an error in this program, {type(error).__name__}: {cli.describe(error)} (VOICETOIMG_TRACEBACK=1 shows where)"
    )


def _show_traceback(error: Exception, screen: Screen) -> None:
    if os.environ.get("VOICETOIMG_TRACEBACK"):
        screen.warn("".join(traceback.format_exception(error)).rstrip())
