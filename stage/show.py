"""The show: its visitors, the queue of their recordings, the thread that paints them, and the words for every page."""

import argparse
import base64
import io
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

import cli
from audio.recorder import MicrophoneError, find_microphone
from live.display import Display
from live.pipeline import Pipeline, Take
from live.session import Entry, Session, new_id
from stage.access import Refusal
from stage.events import Hub
from stage.recordings import MachineRecording, Recording, Upload, verdict

if TYPE_CHECKING:
    from live.meter import Meter

MOST_WAITING = 8  # recordings that wait or are being made, beside the one that is painted
MOST_VISITORS = 1000  # that are remembered
STALE = 20.0  # seconds without a piece after which a recording counts as lost
TIDY = 5.0  # seconds between two looks for what is lost or to be forgotten, while nobody waits
SHOWN_FOR = 90.0  # seconds after which a visitor's page forgets a picture by itself
SLIDES = 60  # past pictures that the screen shows while nobody speaks
FREE_LENGTH = 200  # characters of a prompt that a visitor types
REMEMBERED = 20  # times of pictures, and errors, for the artist
PREVIEW_QUALITY = 80  # of JPEG


@dataclass
class Ticket:
    """A finished recording on its way to an image."""

    id: str  # of the image
    visitor: "Visitor"
    prompt: str
    recording: Recording
    wave: list[int]
    advice: str  # code, or ""
    image: Path | None = None  # once it is there


@dataclass
class Visitor:
    """One browser."""

    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    seen: float = field(default_factory=time.monotonic)
    recording: Recording | None = None
    finished: tuple[str, dict[str, Any]] = ("", {})  # id of the last recording, and its verdict
    prompt: str = ""  # of the recording
    ticket: Ticket | None = None  # waits or is painted
    picture: str = ""  # id of a finished image that is still shown
    problem: str = ""  # code of what went wrong, shown until the next recording
    since: float = 0.0  # time.monotonic() at which the picture came

    @property
    def topic(self) -> str:
        """Topic of its events."""
        return f"visitor {self.id}"


class StageDisplay:
    """A `Display` that passes lines on to the terminal, and what happens to an image to the show."""

    def __init__(self, terminal: Display) -> None:
        """Keep the terminal; the show sets the other fields."""
        self.terminal = terminal
        self.show: Show | None = None
        self.errors: deque[str] = deque(maxlen=REMEMBERED)

    def say(self, line: str) -> None:
        """Print a line."""
        self.terminal.say(line)

    def warn(self, line: str) -> None:
        """Print a warning, and keep it for the artist's page."""
        self.errors.append(f"{time.strftime('%H:%M:%S')} {line}")
        self.terminal.warn(line)

    def status(self, text: str) -> None:
        """Show what the program waits for."""
        self.terminal.status(text)

    def level(self, meter: "Meter | None") -> None:
        """Show nothing: the pages get the waveform of a recording."""

    def progress(self, step: int, steps: int) -> None:
        """Tell the pages how much is done."""
        if self.show:
            self.show.on_progress(step, steps)

    def progress_done(self) -> None:
        """Show nothing: the image, or what went wrong, follows."""

    def preview(self, path: Path) -> None:
        """Send a rough version to the pages."""
        if self.show:
            self.show.on_preview(path)

    def image(self, path: Path, seconds: float) -> None:
        """Show a finished image on the pages."""
        if self.show:
            self.show.on_image(path, seconds)
        self.terminal.image(path, seconds)


class Show:
    """All that happens on the pages. Its methods may be called from any thread."""

    def __init__(self, options: argparse.Namespace, display: StageDisplay, pipeline: Pipeline) -> None:
        """Set up the show; `start` begins to paint."""
        assert pipeline.session
        self.options, self.display, self.pipeline = options, display, pipeline
        self.session: Session = pipeline.session
        self.hub = Hub(self._snapshot)
        self.prompts: list[str] = list(options.prompts)
        self.free_prompt: bool = options.free_prompt
        self.paused = False
        self.microphone: str = options.mic  # "": that of the browser
        self.ready = False  # the model is loaded
        self.failure: Exception | None = None  # it cannot be loaded
        self.on_failure: Callable[[], None] = lambda: None
        self.seconds: deque[float] = deque(maxlen=REMEMBERED)  # from the end of a recording to its image
        self.public = ""  # address that phones can reach, "" if there is none
        self._visitors: dict[str, Visitor] = {}
        self._waiting: deque[Ticket] = deque()
        self._current: Ticket | None = None
        self._latest: dict[str, Ticket] = {}  # images that are not in the session yet
        self._speaking: Visitor | None = None  # whose voice the screen shows
        self._preview = ""  # of the current image, as a data URL
        self._closing = False
        self._lock = threading.RLock()
        self._news = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._paint_all, daemon=True)
        display.show = self

    def start(self) -> None:
        """Begin to paint; the model loads meanwhile."""
        self._thread.start()

    def close(self) -> None:
        """End the show; recordings that have no image are left to the pipeline, which keeps them."""
        with self._news:
            self._closing = True
            for visitor in self._visitors.values():
                if visitor.recording:
                    with suppress(OSError, MicrophoneError):
                        visitor.recording.end()
            self._news.notify_all()

    # --- visitors -----------------------------------------------------------------------------------------------------
    def visitor(self, id: str) -> Visitor:
        """Return the visitor of a cookie, or a new one."""
        with self._lock:
            visitor = self._visitors.get(id)
            if visitor is None:
                visitor = Visitor()
                self._visitors[visitor.id] = visitor
                self._forget_visitors()
            visitor.seen = time.monotonic()
            return visitor

    def _forget_visitors(self) -> None:
        while len(self._visitors) > MOST_VISITORS:
            idle = [one for one in self._visitors.values() if not one.ticket and not one.recording]
            if not idle:
                return
            del self._visitors[min(idle, key=lambda one: one.seen).id]

    def begin(self, visitor: Visitor, prompt: str) -> Recording:
        """Begin a recording.

        Raises:
            Refusal: paused, busy, too many wait, or no such prompt.
        """
        with self._lock:
            self._drop_lost()
            self.drop(visitor, "")
            if self.paused or self._closing:
                raise Refusal("paused")
            if visitor.ticket:
                raise Refusal("busy")
            if len(self._waiting) + sum(bool(one.recording) for one in self._visitors.values()) >= MOST_WAITING:
                raise Refusal("full", 503)
            visitor.prompt = self._allowed(prompt)
            visitor.picture = visitor.problem = ""
            visitor.recording = self._recorder(self._bars_of(visitor))
            if self._speaking is None:
                self._speaking = visitor
                self.hub.publish("screen", "speak", visitor.prompt)
            self._tell(visitor)
            return visitor.recording

    def _recorder(self, on_bars: Callable[[list[int]], None]) -> Recording:
        """Return a recording that has just begun.

        Raises:
            Refusal: there is no such microphone, or it cannot be opened.
        """
        path, seconds = self.pipeline.files.new_recording(), self.options.max_seconds
        if not self.microphone:
            return Upload(path, seconds, on_bars)
        try:
            microphone = find_microphone(self.microphone, self.options.channel)
        except MicrophoneError as error:
            self.display.warn(cli.describe(error))
            raise Refusal("microphone", 503) from None
        return MachineRecording(path, microphone, seconds, on_bars)

    def _allowed(self, prompt: str) -> str:
        """Return a prompt that a visitor may use.

        Raises:
            Refusal: there is no such choice.
        """
        prompt = " ".join(prompt.split())
        if prompt in self.prompts or not prompt:
            return prompt or self.prompts[0]
        if not self.free_prompt or len(prompt) > FREE_LENGTH or not prompt.isprintable():
            raise Refusal("prompt", 422)
        return prompt

    def _bars_of(self, visitor: Visitor) -> Callable[[list[int]], None]:
        def on_bars(bars: list[int]) -> None:
            if self._speaking is visitor:
                self.hub.publish("screen", "wave", bars, passing=True)
            if self.microphone:
                self.hub.publish(visitor.topic, "wave", bars, passing=True)

        return on_bars

    def piece(self, visitor: Visitor, id: str, number: int, body: bytes, last: bool) -> dict[str, Any]:
        """Take a piece of a recording; return what is awaited next or, of the last one, what becomes of it.

        Raises:
            Refusal: the recording is not known, the piece is not sound or not the next one, or the disk is full.
        """
        if visitor.finished[0] == id:  # the page did not get the answer, and asks again
            return visitor.finished[1]
        recording = self._recording_of(visitor, id)
        if not isinstance(recording, Upload):
            return self.finish(visitor, id)
        try:
            if body:
                recording.add(number, body)
        except OSError as error:
            self._fail_to_write(visitor, error)
        return self.finish(visitor, id) if last else {"next": recording.next}

    def _recording_of(self, visitor: Visitor, id: str) -> Recording:
        recording = visitor.recording
        if recording is None or recording.id != id:
            raise Refusal("unknown", 410)
        return recording

    def _fail_to_write(self, visitor: Visitor, error: OSError) -> None:
        """Keep what is on disk, and say what is wrong."""
        self.display.warn(cli.describe(error))
        self.drop(visitor, "disk")
        raise Refusal("disk", 507) from error

    def finish(self, visitor: Visitor, id: str) -> dict[str, Any]:
        """End a recording; return its verdict: {"problem": code} or {"advice": code or ""}.

        Raises:
            Refusal: the recording is not known, or could not be written.
        """
        recording = self._recording_of(visitor, id)
        try:
            recording.end()
        except MicrophoneError as error:
            self.display.warn(cli.describe(error))
            self.drop(visitor, "microphone")
            raise Refusal("microphone", 503) from error
        except OSError as error:
            self._fail_to_write(visitor, error)
        if recording.note:
            self.display.warn(f"note: {recording.note}")
        problem, advice = verdict(recording)
        with self._news:
            self._recording_of(visitor, id)  # another request may have dropped it
            visitor.recording = None
            self._quiet(visitor)
            if problem:
                recording.path.unlink(missing_ok=True)
                visitor.problem = problem
            else:
                wave = recording.loudness.whole() if recording.loudness else []
                visitor.ticket = Ticket(new_id(), visitor, visitor.prompt, recording, wave, advice)
                self._waiting.append(visitor.ticket)
                self._news.notify_all()
            visitor.finished = id, {"problem": problem, "advice": advice}
            self._tell(visitor)
        self._tell_artist()
        return visitor.finished[1]

    def drop(self, visitor: Visitor, problem: str) -> None:
        """Give up a recording that is not finished; what is usable of it is kept on disk, unless none is to be."""
        with self._lock:
            recording, visitor.recording = visitor.recording, None
            if recording is None:
                return
            with suppress(OSError, MicrophoneError):
                recording.end()
            self._quiet(visitor)
            unusable, _ = verdict(recording)
            with suppress(OSError):
                if unusable or self.options.discard_audio:
                    recording.path.unlink(missing_ok=True)
                else:
                    kept = self.pipeline.files.set_aside(recording.path)
                    self.display.warn(f"a recording was interrupted; it is kept: {kept}")
            visitor.problem = problem
            self._tell(visitor)

    def _drop_lost(self) -> None:
        """Give up the recordings of pages that are gone."""
        for visitor in [one for one in self._visitors.values() if one.recording]:
            if visitor.recording and time.monotonic() - visitor.recording.touched > STALE:
                self.drop(visitor, "interrupted")

    def _quiet(self, visitor: Visitor) -> None:
        """Let the screen show another voice, or none."""
        if self._speaking is visitor:
            self._speaking = next((one for one in self._visitors.values() if one.recording), None)
            name, prompt = ("speak", self._speaking.prompt) if self._speaking else ("silence", "")
            self.hub.publish("screen", name, prompt)

    def again(self, visitor: Visitor) -> None:
        """Forget the picture that a visitor looks at: the next one at this page must not see it."""
        with self._lock:
            visitor.picture = visitor.problem = ""
            self._tell(visitor)

    # --- the painter --------------------------------------------------------------------------------------------------
    def _paint_all(self) -> None:
        try:
            self.pipeline.await_encoder()
            self.pipeline.generator.await_ready(self.display)
        except Exception as error:
            self.failure = None if self._closing else error
            self.on_failure()
            return
        self.ready = True
        self._tell_all()
        while ticket := self._next():
            with suppress(Exception):  # a bug must not end the show; `_paint` reports what it can
                self._paint(ticket)

    def _next(self) -> Ticket | None:
        """Wait for a recording; return None at the end of the show."""
        with self._news:
            while not self._waiting and not self._closing:
                self._news.wait(TIDY)
                self._drop_lost()
                self._forget_pictures()
            if self._closing:
                return None
            self._current = self._waiting.popleft()
            self._preview = ""
            return self._current

    def _forget_pictures(self) -> None:
        for visitor in self._visitors.values():
            if visitor.picture and time.monotonic() - visitor.since > SHOWN_FOR:
                self.again(visitor)

    def _paint(self, ticket: Ticket) -> None:
        self.hub.publish("screen", "paint", {"prompt": ticket.prompt, "wave": ticket.wave})
        self._tell_all()
        failed = self.pipeline.failed
        # a budget of seconds counts from here: others may have been painted since the recording ended
        take = Take(ticket.recording.path, own=True, stopped=time.monotonic(), prompt=ticket.prompt, id=ticket.id)
        self.pipeline.submit(take)
        self.pipeline.wait()
        if self._closing:
            return
        with self._lock:
            self._current = None
            if self.pipeline.failed > failed or ticket.image is None:
                self._failed(ticket)
            elif entry := self.session.find(ticket.id):
                self.session.change(entry, wave=ticket.wave)
                del self._latest[ticket.id]
        self.hub.publish("gallery", "changed", None)
        self._tell_all()

    def _failed(self, ticket: Ticket) -> None:
        if ticket.image is None:
            ticket.visitor.ticket = None
            ticket.visitor.problem = "failed"
            self.hub.publish("screen", "failed", None)

    def on_progress(self, step: int, steps: int) -> None:
        """Tell the pages that `step` of `steps` are done."""
        self._send_current("progress", [step, steps])

    def on_preview(self, path: Path) -> None:
        """Send a rough version of the current image."""
        if not self._current:
            return
        with suppress(OSError):  # replaced or removed meanwhile: the next one follows
            self._preview = _data_url(path)
            self._send_current("preview", self._preview)

    def _send_current(self, name: str, content: object) -> None:
        if ticket := self._current:
            for topic in ("screen", ticket.visitor.topic):
                self.hub.publish(topic, name, content, passing=True)

    def on_image(self, path: Path, seconds: float) -> None:
        """Show a finished image."""
        with self._lock:
            ticket = self._current
            if not ticket:
                return
            self.seconds.append(seconds)
            ticket.image = path
            self._latest[ticket.id] = ticket
            visitor = ticket.visitor
            visitor.ticket, visitor.picture, visitor.since = None, ticket.id, time.monotonic()
            self._tell(visitor)
            self.hub.publish("screen", "picture", self._card(ticket.id, ticket.prompt, ticket.wave))

    # --- pictures -----------------------------------------------------------------------------------------------------
    def find(self, id: str) -> tuple[Path, Entry] | None:
        """Return the file and the entry of an image that may be shown."""
        entry = self.session.find(id)
        if entry:
            return None if entry.hidden else (self.session.folder / entry.image, entry)
        ticket = self._latest.get(id)
        if ticket and ticket.image:
            return ticket.image, Entry(id, ticket.prompt, ticket.image.name, "", wave=ticket.wave)
        return None

    def hide(self, id: str, hidden: bool) -> None:
        """Hide an image from all pages, or show it again."""
        entry = self._entry(id)
        self.session.change(entry, hidden=hidden)
        self._tell_removed(id)

    def delete(self, id: str) -> None:
        """Delete an image with its voice and latents, from disk and from every page.

        Raises:
            Refusal: there is no such image.
            OSError: a file cannot be deleted.
        """
        entry = self._entry(id)
        files = self.pipeline.files
        with self._lock:
            newest = self.session.all()[0] is entry and not self._current
            self.session.remove(entry)
            if newest:  # the run's own files are still those of this voice
                files.wav.unlink(missing_ok=True)
                files.latent.unlink(missing_ok=True)
        self._tell_removed(id)

    def _entry(self, id: str) -> Entry:
        entry = self.session.find(id)
        if entry is None:
            raise Refusal("unknown", 404)
        return entry

    def _tell_removed(self, id: str) -> None:
        with self._lock:
            for visitor in self._visitors.values():
                if visitor.picture == id:
                    visitor.picture, visitor.problem = "", "removed"
                    self._tell(visitor)
        self.hub.refresh("screen")
        self.hub.publish("gallery", "changed", None)
        self._tell_artist()

    # --- what pages are told ------------------------------------------------------------------------------------------
    def _snapshot(self, topic: str) -> list[tuple[str, Any]]:
        with self._lock:
            if topic == "screen":
                return [("show", self._screen())]
            if topic == "artist":
                return [("all", self.overview())]
            if topic == "gallery":
                return [("changed", None)]
            visitor = self._visitors.get(topic.removeprefix("visitor "))
            return [("you", self._state(visitor))] if visitor else []

    def _screen(self) -> dict[str, Any]:
        current = self._current
        return {
            "slides": [self._card(entry.id, entry.prompt, entry.wave) for entry in self.session.shown()[:SLIDES]],
            "paint": {"prompt": current.prompt, "wave": current.wave, "preview": self._preview} if current else None,
            "speak": self._speaking.prompt if self._speaking else None,
            "public": self.public,
        }

    def _card(self, id: str, prompt: str, wave: list[int]) -> dict[str, Any]:
        return {"id": id, "prompt": prompt, "wave": wave}

    def _state(self, visitor: Visitor) -> dict[str, Any]:
        ticket = visitor.ticket
        recording = visitor.recording
        if recording:
            state = "speaking"
        elif ticket:
            state = "painting" if ticket is self._current else "waiting"
        else:
            state = "picture" if visitor.picture else "ready"
        shown = self.find(visitor.picture) if visitor.picture else None
        place = 1 + self._waiting.index(ticket) + bool(self._current) if ticket and ticket in self._waiting else 0
        return {
            "state": state,
            "place": place,
            "prompt": ticket.prompt if ticket else shown[1].prompt if shown else "",
            "advice": ticket.advice if ticket else "",
            "picture": visitor.picture,
            "problem": visitor.problem,
            "recording": recording.id if recording else "",
            "preview": self._preview if ticket and ticket is self._current else "",
            "prompts": self.prompts,
            "free": self.free_prompt,
            "paused": self.paused,
            "ready": self.ready,
            "machine": bool(self.microphone),
            "seconds": self.options.max_seconds,
            "kept": not self.options.discard_audio,
            "public": bool(self.public),
        }

    def overview(self) -> dict[str, Any]:
        """Return all that the artist's page shows."""
        with self._lock:
            return {
                "prompts": self.prompts,
                "free": self.free_prompt,
                "paused": self.paused,
                "ready": self.ready,
                "steps": self.options.steps,
                "budget": self.options.budget,
                "microphone": self.microphone,
                "waiting": [ticket.prompt for ticket in self._waiting],
                "painting": self._current.prompt if self._current else "",
                "speaking": sum(bool(one.recording) for one in self._visitors.values()),
                "pages": self.hub.count(),
                "seconds": [round(seconds, 2) for seconds in self.seconds],
                "errors": [*self.display.errors][::-1],
                "pictures": [
                    {"id": entry.id, "prompt": entry.prompt, "hidden": entry.hidden} for entry in self.session.all()
                ],
            }

    def _tell(self, visitor: Visitor) -> None:
        self.hub.publish(visitor.topic, "you", self._state(visitor))

    def _tell_artist(self) -> None:
        if self.hub.count("artist"):
            self.hub.publish("artist", "all", self.overview(), passing=True)

    def _tell_all(self) -> None:
        """Tell every visitor and the artist what is so now."""
        with self._lock:
            for visitor in self._visitors.values():
                if self.hub.count(visitor.topic):
                    self._tell(visitor)
        self._tell_artist()

    # --- the artist ---------------------------------------------------------------------------------------------------
    def change(self, settings: dict[str, Any]) -> None:
        """Change what the artist's page offers; it was checked before."""
        with self._lock:
            for name in ("prompts", "free_prompt", "paused", "microphone"):
                if name in settings:
                    setattr(self, name, settings[name])
            for name in ("steps", "budget"):
                if name in settings:
                    setattr(self.options, name, settings[name])
        self._tell_all()


def _data_url(path: Path) -> str:
    """Return an image as JPEG in a data URL."""
    with Image.open(path) as image:
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "JPEG", quality=PREVIEW_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
