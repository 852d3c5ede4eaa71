"""The pipeline of a live run: recordings queue up, and each becomes an image while the next one is recorded.

The main thread records; one other thread makes the images with two scripts in standby (`live/client.py`):
process_live_audio.py, the encoder, turns a recording into a latent, and txt2img.py, the generator, that into an image.
"""

import argparse
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import cli
import config
from files import alternatives, reserved
from live import client
from live.client import Answer, ClientDied, ClientError, ScriptClient
from live.display import Display
from live.prompts import Prompts
from live.run_files import RunFiles
from live.session import Session
from live.viewer import Viewer

KEPT = "the recording is kept"
EARLIER_KEPT = "an earlier recording without an image is kept"
MEASURED_STEPS = 4  # more in one of the two images whose times give the seconds per step
SPARE = 0.05  # share of a budget that is left unplanned

Result = TypeVar("Result")


@dataclass(eq=False)
class Take:
    """A recording that is to become an image."""

    path: Path  # where it is now
    own: bool  # recorded by this run; otherwise a file of the user
    stopped: float  # time.monotonic() at which its sound was complete
    summary: str = ""  # one line about it
    prompt: str | None = None  # of its image; None: the run's next one
    id: str = ""  # of its image in the session; "": a new one
    encoded: bool = False  # `RunFiles.latent` was made from it
    places: dict[str, float] = field(default_factory=dict)  # of its voice: `audio.description.places_of`


@dataclass
class Speed:
    """Time that the generator needs, as last measured."""

    fixed: float  # seconds an image, however many steps
    per_step: float  # seconds
    allowed: tuple[int, int] = (1, 50)  # least and most steps that are of use

    def seconds_for(self, steps: int) -> float:
        """Return the seconds that an image of so many steps takes."""
        return self.fixed + steps * self.per_step

    def steps_within(self, seconds: float) -> int:
        """Return the number of steps, within those allowed, that fit into a time."""
        least, most = self.allowed
        steps = int((seconds * (1 - SPARE) - self.fixed) / self.per_step)
        return max(least, min(most, steps))

    def update(self, steps: int, seconds: float) -> None:
        """Scale both times to the last image, because other programs change the speed of the machine."""
        factor = seconds / self.seconds_for(steps)
        self.fixed, self.per_step = self.fixed * factor, self.per_step * factor


class Pipeline:
    """The two scripts and the queue of recordings. Used in a `with` block, after which no script runs any more."""

    def __init__(self, options: argparse.Namespace, display: Display, files: RunFiles) -> None:
        """Set up the pipeline; `start` starts the scripts.

        Args:
            options: the command line of run_live_workflow.py.
            display: is told everything that happens.
            files: names for the recording and the latent.
        """
        self.options, self.display, self.files = options, display, files
        self.prompts = Prompts(options.prompts)
        self.failed = 0  # recordings that gave no image
        self.session = session_of(options)
        several = options.loop or len(options.input_file or ()) > 1
        page = options.outdir / f"newest{'' if files.number == 1 else f'_{files.number}'}.html" if several else None
        self._viewer = Viewer(page, display.warn) if options.open else None
        self._speed: Speed | None = None
        self._measuring: Future[None] | None = None  # done once the speed is known
        self._printed: set[str] = set()
        self._submitted_any = self._closing = False
        self._queue: list[Take] = []  # the first one is being worked on
        self._thread = ThreadPoolExecutor(1)
        listening = ["--verbose"] if options.verbose else []
        self.encoder = ScriptClient(config.REPO_DIR / "process_live_audio.py", listening, options.timeout)
        self.generator = ScriptClient(config.REPO_DIR / "txt2img.py", options.painting, options.timeout)

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()

    def start(self) -> None:
        """Start the scripts, unless each is to start only when it is needed; return at once."""
        if self.options.no_standby:
            return
        self.generator.start()
        self.encoder.start()
        if self.options.budget:
            self._measuring = self._thread.submit(self._measure)

    def await_encoder(self) -> None:
        """Wait until the encoder, and with a budget the speed, is ready; the model may go on loading.

        Raises:
            ClientError: it does not work.
        """
        if not self.options.no_standby:
            self.encoder.await_ready(self.display)
        if self._measuring:
            self.display.say("measuring the speed of this computer...")
            _wait_for(self._measuring.done)
            self._measuring.result()

    def check(self) -> None:
        """Raise ClientDied if the model failed to load before the first recording."""
        if not self._submitted_any:
            self.generator.check()

    def submit(self, take: Take) -> None:
        """Queue a recording, and return at once; images are made in the order of the recordings."""
        self._submitted_any = True
        take.prompt = self.prompts.take() if take.prompt is None else take.prompt
        if take.summary:
            before = len(self._queue)
            turn = f"; its image comes after {cli.counted(before, 'other')}" if before else f": {self.files.wav}"
            self.display.say(f"{take.summary}{turn}")
        self._queue.append(take)
        self._thread.submit(self._process, take)

    def finish(self) -> None:
        """Wait until all images are made."""
        if self.options.loop and (left := len(self._queue)):
            self.display.say(f"{cli.counted(left, 'image')} still to be made")
        self.wait()

    def wait(self) -> None:
        """Wait until no recording is in the queue."""
        _wait_for(lambda: not self._queue)
        if self._viewer:
            self._viewer.settle()

    def abandon(self) -> list[Path]:
        """End everything; return the recordings of this run that have no image, where they are kept."""
        self._closing = True
        client.close([self.encoder, self.generator])
        self._thread.shutdown(cancel_futures=True)
        self.display.status("")
        published = [take.path for take in self._queue if take.own and take.path == self.files.wav]
        self._queue = []
        return [self._keep_safe(path) for path in (*published, *self.files.unused())]

    # --- one image, in the other thread -------------------------------------------------------------------------------
    def _process(self, take: Take) -> None:
        """Make the image of a recording; an error is reported and ends nothing."""
        if self._closing:
            return
        try:
            if take.own:
                take.path = self._publish(take.path)
            image = self._generate(take)
            self.display.image(image, time.monotonic() - take.stopped)
            if take.own:
                self.files.mark_done()
            self._present(take, image)
        except Exception as error:  # also a bug must not end the run
            if self._closing:
                return  # the script was ended on purpose, and `abandon` reports the recording
            self.failed += 1
            with suppress(Exception):  # `finish` would wait for ever if the take stayed in the queue
                self._report_failure(take, error)
        self._queue.remove(take)

    def _publish(self, recording: Path) -> Path:
        """Make a recording the run's wav; return its new path."""
        if earlier := self.files.publish(recording):
            self.display.say(f"{EARLIER_KEPT}: {earlier}")
        return self.files.wav

    def _keep_safe(self, path: Path) -> Path:
        """Return where a recording without an image is kept; in a loop it moves, so the next one cannot replace it."""
        with suppress(OSError):  # then it stays where it is, and the next run finds it
            if self.options.loop:
                return self.files.set_aside(path)
            if path != self.files.wav:
                return self._publish(path)
        return path

    def _generate(self, take: Take) -> Path:
        """Make a latent and an image from a recording; return the image's path."""
        latent = str(self.files.latent)
        channel = {} if take.own or not self.options.channel else {"channel": self.options.channel}
        trim = {"no_trim": True} if self.options.no_trim else {}
        encoded = self._ask(self.encoder, input_file=str(take.path), output_file=latent, **channel, **trim)
        take.encoded = True
        # the capture has warned of its own recordings already, but does not know what was taken off
        notes = [line for line in encoded.warnings if line.startswith("note: ")]
        self._print(encoded.output, notes if take.own else encoded.warnings)
        steps = self._steps(take)
        started = time.monotonic()
        generated = self._ask(self.generator, init_latents=latent, steps=steps, prompt=take.prompt)
        if self._speed:
            self._speed.update(steps, time.monotonic() - started)
        images, voices = (generated.content.get(name) or [] for name in ("pictures", "voices"))
        self._print(generated.output, generated.warnings)
        if not images:
            raise ClientError(f"{self.generator.name} ended without naming an image")
        if voices and voices[0]:
            from audio.description import describe

            take.places = voices[0]
            if (line := f"voice: {describe(take.places)}") not in encoded.output:  # where --verbose says it
                self.display.say(line)
        return Path(images[0])

    def _ask(self, script: ScriptClient, **request: object) -> Answer:
        """Send a request to a script; with --no_standby, end the script after it."""
        try:
            return self._twice(lambda: script.ask(request, self.display))
        finally:
            self.display.progress_done()
            if self.options.no_standby:
                client.end([script])

    def _twice(self, work: Callable[[], Result]) -> Result:
        """Do work that needs a script; if the script dies although it had been ready, start it again and retry once."""
        try:
            return work()
        except ClientDied as error:
            if self._closing or not error.was_ready:
                raise
            self.display.warn(f"{error}; it is started again")
            return work()

    def _print(self, output: Iterable[str], warnings: Iterable[str]) -> None:
        """Print a script's lines. Lines printed before are left out."""
        for lines, show in ((output, self.display.say), (warnings, self.display.warn)):
            for line in lines:
                if line not in self._printed:
                    show(line)
                self._printed.add(line)

    def _report_failure(self, take: Take, error: Exception) -> None:
        """Report a failed recording: the reason and, if this run recorded it, where the file is kept."""
        _show_traceback(error, self.display)
        reason = _reason(error)
        if not take.own:
            which = "" if str(take.path) in reason else f"{take.path}: "
            self.display.warn(f"{cli.program()}: {which}{reason}")
            return
        if take.encoded and self.options.loop:
            with suppress(OSError):
                self.files.set_aside(self.files.latent)
        self.display.warn(f"{cli.program()}: {reason}; {KEPT}: {self._keep_safe(take.path)}")

    # --- budget -------------------------------------------------------------------------------------------------------
    def _measure(self) -> None:
        """Measure the generator's speed with two images."""
        fast, slow = self._twice(self._seconds_measured)
        few, _ = allowed = self.options.useful_steps
        # the smallest time per step is a guess, for a machine so irregular that more steps took less time
        per_step = max((slow - fast) / MEASURED_STEPS, slow / 1000)
        self._speed = Speed(max(0.0, fast - few * per_step), per_step, allowed)

    def _seconds_measured(self) -> list[float]:
        """Return the seconds for two images, which are thrown away: of few steps, and of MEASURED_STEPS more."""
        seconds = []
        with tempfile.TemporaryDirectory() as folder:
            self.generator.await_ready(self.display)
            few, _ = self.options.useful_steps
            for steps in (few, few + MEASURED_STEPS):
                started = time.monotonic()
                answer = self.generator.ask({"steps": steps, "outdir": folder})
                self._print([], answer.warnings)
                seconds.append(time.monotonic() - started)
        return seconds

    def _steps(self, take: Take) -> int:
        """Return the steps for a recording: the option, or what is left of the budget allows."""
        if not self._speed:
            return int(self.options.steps)
        left = self.options.budget - (time.monotonic() - take.stopped)
        steps = self._speed.steps_within(left)
        needed = self._speed.seconds_for(steps)
        time_of_steps = f"{needed:.1f} s for {cli.counted(steps, 'step')}"
        self.display.say(f"{time_of_steps}; {max(left, 0.0):.1f} s of the budget are left")
        if needed > left:
            self.display.warn(f"warning: the image will take longer than {self.options.budget:g} s")
        return steps

    # --- after an image -----------------------------------------------------------------------------------------------
    def _present(self, take: Take, image: Path) -> None:
        """Make the card, copy into the session, open the viewer, as asked. A failure there costs no image."""
        card = self._try(lambda: self._card(take, image)) if self.options.card else None
        if session := self.session:
            self._try(lambda: self._add_to_session(session, take, image, card))
        if viewer := self._viewer:
            self._try(lambda: viewer.show(card or image))
        if self.options.discard_audio:
            self._try(lambda: take.path.unlink(missing_ok=True))

    def _try(self, work: Callable[[], Result]) -> Result | None:
        """Do some work and return its result; if it fails, warn and return None."""
        try:
            return work()
        except Exception as error:  # also a bug must not cost the image
            _show_traceback(error, self.display)
            self.display.warn(f"warning: {_reason(error)}")
            return None

    def _add_to_session(self, session: Session, take: Take, image: Path, card: Path | None) -> None:
        from audio.provenance import recording_name

        recording = None if self.options.discard_audio else take.path
        name = "" if take.own else recording_name(take.path)
        session.add(take.prompt or "", image, self.files.latent, recording, card, take.id, name, take.places)
        self._print([f"session: {session.page}"], [])

    def _card(self, take: Take, image: Path) -> Path:
        """Draw the card of an image; return its path."""
        from live.card import package_for, save_card

        with reserved(self.options.outdir / "cards", alternatives(image.name)) as path:
            channel = None if take.own else self.options.channel
            lacking = save_card(
                take.path, image, take.prompt or "", path, config.RECIPE, channel, not self.options.no_trim, take.places
            )
        self.display.say(f"card: {path}")
        if lacking:
            fonts = f"sudo apt install {package_for(lacking)}"
            self._print(
                [], [f"warning: no font on this computer has {lacking}, so the card lacks it; on Debian: {fonts}"]
            )
        return path


def session_of(options: argparse.Namespace) -> Session | None:
    """Return the session that the options ask for: a new one, that of a folder, or None.

    Raises:
        ValueError, OSError: the folder is not that of a session.
    """
    if options.session:
        return Session.resume(options.session, options.title)
    return Session(config.SESSIONS_DIR, options.title) if options.keep else None


def _wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; not a blocking wait, because on Windows Ctrl-C cannot end one."""
    while not condition():
        time.sleep(0.02)


def _reason(error: Exception) -> str:
    """Return one line about an error; of an unforeseen one also its type, since its text may be a single word."""
    if isinstance(error, cli.USER_ERRORS):
        return cli.describe(error)
    return f"a bug in this program, {type(error).__name__}: {cli.describe(error)} (VOICETOIMG_TRACEBACK=1 shows where)"


def _show_traceback(error: Exception, display: Display) -> None:
    if cli.traceback_wanted():
        display.warn("".join(traceback.format_exception(error)).rstrip())
