"""A show: recordings are taken, and each becomes a picture while the next one may be taken.

Recording goes on in the main thread, pictures are made in one other, by two scripts that stand by (live/worker.py).
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cli
import config
from files import reserve
from live import worker
from live.folder import ShowFolder
from live.session import Session
from live.terminal import Screen
from live.viewer import open_in_viewer
from live.worker import Answer, Worker, WorkerDied, WorkerError

KEPT = "the recording is kept"
PICTURE = "picture: "  # how txt2img.py names a file it wrote
MOST_STEPS = 50  # of DPM-Solver++(2M), which more hardly change
MEASURED_STEPS = (1, 5)  # of the two pictures that tell how long a step takes
SPARE = 0.05  # share of a budget that is not planned for


@dataclass(eq=False)
class Take:
    """A recording that is to become a picture."""

    path: Path  # where it lies now
    own: bool  # recorded by this show, and not a file of the user's
    stopped: float  # time.monotonic() at which its sound was complete


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

    def __init__(self, options: argparse.Namespace, screen: Screen, folder: ShowFolder) -> None:
        self.options, self.screen, self.folder = options, screen, folder
        self.failed = 0  # takes of which there is no picture
        self._session = Session(config.SESSIONS_DIR) if options.keep else None
        self._speed: Speed | None = None
        self._measured: Future[None] | None = None  # done when the speed is known
        self._told: set[str] = set()
        self._began = self._speaking = self._closing = False
        self._waiting: list[Take] = []  # the first of them is being worked on
        self._bugs: list[BaseException] = []
        self._thread = ThreadPoolExecutor(1)
        chosen = ["--sampler=dpmpp"]
        chosen += [f"--{name}={getattr(options, name)}" for name in ("prompt", "scale", "seed")]
        self.listener = Worker(config.REPO_DIR / "process_live_audio.py", [], self._progress, options.timeout)
        self.painter = Worker(config.REPO_DIR / "txt2img.py", chosen, self._progress, options.timeout)

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
            self._measured.add_done_callback(self._see_bug)

    def await_calibration(self) -> None:
        """Wait for what is soon known to work, while the model is still loading; and for the speed that a budget needs.

        Raises:
            WorkerDied: it does not.
        """
        if not self.options.no_standby:
            self.listener.await_ready()
        if self._measured:
            self.screen.say("measuring how fast this machine paints...")
            wait([self._measured])
            self.check()

    def check(self) -> None:
        """Raises WorkerDied if the model turned out to be unusable before the first recording."""
        if not self._began:
            self.painter.check()
        if self._bugs:
            raise self._bugs[0]

    def speaking(self, now: bool) -> None:
        """Whether somebody speaks, so that the terminal's status belongs to the meter."""
        self._speaking = now
        self.screen.status("")

    def take(self, take: Take) -> None:
        """Make the picture of a recording, after those before it; return at once."""
        self._began = True
        self._waiting.append(take)
        self._thread.submit(self._make, take).add_done_callback(self._see_bug)

    def finish(self) -> None:
        """Wait until all pictures are made."""
        while self._waiting:
            self.check()
            time.sleep(0.02)  # not a join: on Windows Ctrl-C would not end it

    def abandon(self) -> list[Path]:
        """End everything; return where the recordings are that no picture has been made of."""
        self._closing = True
        worker.end([self.listener, self.painter])
        self._thread.shutdown(cancel_futures=True)
        self.screen.status("")
        left, self._waiting = self._waiting, []
        return [
            self.folder.set_aside(take.path, self.folder.wav.stem) if self._is_hidden(take) else take.path
            for take in left
        ]

    # --- one picture, in the other thread ----------------------------------------------------------------------------
    def _make(self, take: Take) -> None:
        try:
            if self._is_hidden(take):
                take.path = self.folder.publish(take.path)
            picture = self._picture_of(take)
            seconds = time.monotonic() - take.stopped
            self.screen.say(f"{PICTURE}{picture} ({seconds:.1f} s from sound to picture)")
            self._present(take, picture)
        except (WorkerError, OSError) as error:
            if self._closing:
                return
            self.failed += 1
            self._lament(take, error)
        self._waiting.remove(take)

    def _is_hidden(self, take: Take) -> bool:
        return take.own and take.path != self.folder.wav

    def _picture_of(self, take: Take) -> Path:
        heard = self._ask(self.listener, input_file=str(take.path), output_file=str(self.folder.latent))
        self._tell(heard.said, heard.warned if not take.own else [])  # of its own the recorder has said the same
        steps = self._steps(take)
        started = time.monotonic()
        latent = str(self.folder.latent)
        painted = self._ask(self.painter, init_latents=latent, ddim_steps=steps, x_T=self.options.x_T)
        if self._speed:
            self._speed.learn(steps, time.monotonic() - started)
        self._tell(painted.said, painted.warned)
        if not painted.content.get("pictures"):
            raise WorkerError(f"{self.painter.name} ended without naming a picture")
        return Path(painted.content["pictures"][0])

    def _ask(self, script: Worker, **request: object) -> Answer:
        """Ask a script; one that worked, and died, is started again once."""
        if self._closing:
            raise WorkerDied("the show has ended", had_worked=False)
        try:
            return script.ask(**request)
        except WorkerDied as error:
            if self._closing or not error.had_worked:
                raise
            self.screen.warn(f"{error}; it is started again")
            return script.ask(**request)
        finally:
            if self.options.no_standby:
                worker.end([script])

    def _tell(self, said: Iterable[str], warned: Iterable[str]) -> None:
        """Show lines of a script: what it says of every picture alike once, and not what its user should do next."""
        for line, show in [*((line, self.screen.say) for line in said), *((line, self.screen.warn) for line in warned)]:
            if line not in self._told and not line.startswith((PICTURE, "next: ")):
                show(line)
            self._told.add(line)

    def _lament(self, take: Take, error: Exception) -> None:
        """Say why there is no picture, and where the recording is, which no later one replaces."""
        path = take.path
        if take.own and self.options.loop:
            path = self.folder.set_aside(path)
            if self.folder.latent.exists():
                with suppress(OSError):
                    self.folder.set_aside(self.folder.latent)
        self.screen.warn(f"{Path(sys.argv[0]).name}: {cli.describe(error)}; {KEPT}: {path}")

    # --- how long it may take ----------------------------------------------------------------------------------------
    def _measure(self) -> None:
        """Paint two pictures of noise, to nowhere, and note how long that takes."""
        seconds = []
        with tempfile.TemporaryDirectory() as folder:
            self.painter.await_ready()
            for steps in MEASURED_STEPS:
                started = time.monotonic()
                self.painter.ask(ddim_steps=steps, outdir=folder)
                seconds.append(time.monotonic() - started)
        (few, many), (fast, slow) = MEASURED_STEPS, seconds
        a_step = max((slow - fast) / (many - few), slow / 1000)
        self._speed = Speed(max(0.0, fast - few * a_step), a_step)

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
        if self._session:
            self._try(lambda: self._keep(take, picture, card))
        if self.options.open:
            self._try(lambda: open_in_viewer(card[0] if card else picture))
        if self.options.discard_audio:
            self._try(lambda: take.path.unlink(missing_ok=True))

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # a bug in what only decorates must not end the show, either
            self.screen.warn(f"warning: {cli.describe(error)}")

    def _keep(self, take: Take, picture: Path, card: list[Path]) -> None:
        recording = None if self.options.discard_audio else take.path
        self._session.add(self.options.prompt, picture, self.folder.latent, recording, card[0] if card else None)
        self._tell([f"session: {self._session.page}"], [])

    def _card(self, take: Take, picture: Path) -> Path:
        from audio.features import Recipe
        from live.card import save_card

        path = reserve(config.OUTPUT_DIR / "cards" / picture.name)
        try:
            save_card(take.path, picture, self.options.prompt, path, Recipe(**config.RECIPE))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self.screen.say(f"card: {path}")
        return path

    def _progress(self, bar: str) -> None:
        if self._waiting and not self._speaking:  # not while the speed is measured
            self.screen.status(bar)

    def _see_bug(self, work: "Future[None]") -> None:
        if not work.cancelled() and (error := work.exception()) and not isinstance(error, WorkerError):
            self._bugs.append(error)
