"""The show: recordings of its visitors, their queue, and the thread that paints them."""

import argparse
import base64
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cli
from audio import filters, recorder
from audio.recorder import Microphone, MicrophoneError
from live.pipeline import Pipeline, Take
from live.session import Entry, Session, new_id
from stage import told
from stage.access import Refusal
from stage.display import StageDisplay
from stage.events import Hub
from stage.recordings import MachineRecording, Recording, Upload, verdict
from stage.visitors import Ticket, Visitor

MOST_WAITING = 8  # recordings that wait or are being made, beside the one that is painted
MOST_VISITORS = 1000  # that are remembered
STALE = 20.0  # seconds without a piece after which a recording counts as lost
TIDY = 5.0  # seconds between two looks for what is lost or to be forgotten, while nobody waits
SHOWN_FOR = 90.0  # seconds after which a visitor's page forgets a picture by itself
FREE_LENGTH = 200  # characters of a prompt that a visitor types
REMEMBERED = 20  # times of pictures, for the artist
PROGRESS_PAUSE = 1.0  # seconds in which progress waits for a preview, so that a page draws both at once
SHOW_FIRST = 0.5  # seconds in which open pages may get a new image before its card is made on the same processor


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
        self.visitors: dict[str, Visitor] = {}
        self.waiting: deque[Ticket] = deque()
        self.current: Ticket | None = None
        self._latest: dict[str, Ticket] = {}  # images that are not in the session yet
        self._fetched: Counter[str] = Counter()  # pages that have got the image of an id, of those in `_latest`
        self.speaking: Visitor | None = None  # whose voice the screen shows
        self.rough = ""  # preview of the current image, as a data URL
        self._done = (0, 1)  # steps of it, and of how many
        self._told_done = 0.0  # time.monotonic() at which the pages were told
        self._found: tuple[str, Microphone] | None = None  # `microphone`, and what it is; None: not found, or lost
        self._closing = False
        self.lock = threading.RLock()
        self._news = threading.Condition(self.lock)
        self._thread = threading.Thread(target=self._paint_all, daemon=True)
        display.painting = self

    def start(self) -> None:
        """Begin to paint; the model loads meanwhile, and the filters of the meters."""
        filters.load_early()
        self._thread.start()

    def close(self) -> None:
        """End the show; recordings that have no image are left to the pipeline, which keeps them."""
        with self._news:
            self._closing = True
            for visitor in self.visitors.values():
                if visitor.recording:
                    with suppress(OSError, MicrophoneError):
                        visitor.recording.end()
            self._news.notify_all()

    # --- visitors -----------------------------------------------------------------------------------------------------
    def visitor(self, id: str) -> Visitor:
        """Return the visitor of a cookie, or a new one."""
        with self.lock:
            visitor = self.visitors.get(id)
            if visitor is None:
                visitor = Visitor()
                self.visitors[visitor.id] = visitor
                self._forget_visitors()
            visitor.seen = time.monotonic()
            return visitor

    def _forget_visitors(self) -> None:
        while len(self.visitors) > MOST_VISITORS:
            idle = [one for one in self.visitors.values() if not one.ticket and not one.recording]
            if not idle:
                return
            del self.visitors[min(idle, key=lambda one: one.seen).id]

    def begin(self, visitor: Visitor, prompt: str) -> Recording:
        """Begin a recording.

        Raises:
            Refusal: paused, busy, too many wait, or no such prompt.
        """
        with self.lock:
            self._drop_lost()
            self.drop(visitor, "")
            if self.paused or self._closing:
                raise Refusal("paused")
            if visitor.ticket:
                raise Refusal("busy")
            if len(self.waiting) + sum(bool(one.recording) for one in self.visitors.values()) >= MOST_WAITING:
                raise Refusal("full", 503)
            visitor.prompt = self._allowed(prompt)
            visitor.picture = visitor.problem = ""
            visitor.recording = self._recorder(self._bars_of(visitor))
            if self.speaking is None:
                self.speaking = visitor
                self.hub.publish("screen", "speak", visitor.prompt)
            self._tell(visitor)
            recording = visitor.recording
        if isinstance(recording, MachineRecording):
            recording.wait_until_started()  # without the lock: the others need not wait
        return recording

    def _recorder(self, on_bars: Callable[[list[int]], None]) -> Recording:
        """Return a recording that has just begun.

        Raises:
            Refusal: there is no such microphone, or it cannot be opened.
        """
        path, seconds = self.pipeline.files.new_recording(), self.options.max_seconds
        if not self.microphone:
            return Upload(path, seconds, on_bars)
        return MachineRecording(path, self._machine_microphone(), seconds, on_bars)

    def _machine_microphone(self) -> Microphone:
        """Return the microphone of this machine. It is kept until a recording fails, because finding it takes time.

        Raises:
            Refusal: there is no such microphone, or it cannot be opened.
        """
        if self._found is None or self._found[0] != self.microphone:
            try:
                if not any(isinstance(one.recording, MachineRecording) for one in self.visitors.values()):
                    recorder.forget_devices()  # which ends recordings
                self._found = (self.microphone, recorder.find_microphone(self.microphone, self.options.channel))
            except MicrophoneError as error:
                self._found = None
                self.display.warn(cli.describe(error))
                raise Refusal("microphone", 503) from None
        return self._found[1]

    def _lose_microphone(self, recording: Recording) -> None:
        """Find the microphone anew next time if a recording has failed: the numbers of devices may have changed."""
        if isinstance(recording, MachineRecording) and recording.broke:
            self._found = None

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
            if self.speaking is visitor:
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
        self._lose_microphone(recording)
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
                self.waiting.append(visitor.ticket)
                self._news.notify_all()
            visitor.finished = id, {"problem": problem, "advice": advice}
            self._tell(visitor)
        self._tell_artist()
        return visitor.finished[1]

    def drop(self, visitor: Visitor, problem: str) -> None:
        """Give up a recording that is not finished; what is usable of it is kept on disk, unless none is to be."""
        with self.lock:
            recording, visitor.recording = visitor.recording, None
            if recording is None:
                return
            with suppress(OSError, MicrophoneError):
                recording.end()
            self._lose_microphone(recording)
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
        for visitor in [one for one in self.visitors.values() if one.recording]:
            if visitor.recording and time.monotonic() - visitor.recording.touched > STALE:
                self.drop(visitor, "interrupted")

    def _quiet(self, visitor: Visitor) -> None:
        """Let the screen show another voice, or none."""
        if self.speaking is visitor:
            self.speaking = next((one for one in self.visitors.values() if one.recording), None)
            name, prompt = ("speak", self.speaking.prompt) if self.speaking else ("silence", "")
            self.hub.publish("screen", name, prompt)

    def again(self, visitor: Visitor) -> None:
        """Forget the picture that a visitor looks at: the next one at this page must not see it."""
        with self.lock:
            visitor.picture = visitor.problem = ""
            self._tell(visitor)

    # --- the painter --------------------------------------------------------------------------------------------------
    def _paint_all(self) -> None:
        if self.microphone:
            with self.lock, suppress(Refusal):  # which is on the artist's page
                self._machine_microphone()
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
            while not self.waiting and not self._closing:
                self._news.wait(TIDY)
                self._drop_lost()
                self._forget_pictures()
            if self._closing:
                return None
            self.current = self.waiting.popleft()
            self.rough, self._done = "", (0, 1)
            return self.current

    def _forget_pictures(self) -> None:
        for visitor in self.visitors.values():
            if visitor.picture and time.monotonic() - visitor.since > SHOWN_FOR:
                self.again(visitor)

    def _paint(self, ticket: Ticket) -> None:
        self.hub.publish("screen", "paint", {"prompt": ticket.prompt, "wave": ticket.wave})
        self._tell_all()
        failed = self.pipeline.failed
        # a budget of seconds counts from here: others may have been painted since the recording ended
        take = Take(ticket.recording.path, own=True, stopped=time.monotonic(), prompt=ticket.prompt, id=ticket.id)
        ticket.take = take
        self.pipeline.submit(take)
        self.pipeline.wait()
        if self._closing:
            return
        with self.lock:
            self.current = None
            if self.pipeline.failed > failed or ticket.image is None:
                self._failed(ticket)
            elif entry := self.session.find(ticket.id):
                self.session.change(entry, wave=ticket.wave)
                del self._latest[ticket.id], self._fetched[ticket.id]
        self.hub.publish("gallery", "changed", None)
        self._tell_all()

    def _failed(self, ticket: Ticket) -> None:
        if ticket.image is None:
            ticket.visitor.ticket = None
            ticket.visitor.problem = "failed"
            self.hub.publish("screen", "failed", None)

    def on_progress(self, step: int, steps: int) -> None:
        """Tell the visitor's page that `step` of `steps` are done: with the next preview, if that comes soon.

        Without a graphics card, each change on a page is drawn by the processor that paints.
        """
        self._done = step, steps
        if time.monotonic() - self._told_done >= PROGRESS_PAUSE:
            self._tell_done()

    def _tell_done(self) -> None:
        self._told_done = time.monotonic()
        if ticket := self.current:
            self.hub.publish(ticket.visitor.topic, "progress", self._done, passing=True)

    def on_preview(self, path: Path) -> None:
        """Send a rough version of the current image, and how much of it is done."""
        with suppress(OSError):  # replaced or removed meanwhile: the next one follows
            self.rough = _data_url(path)
            if ticket := self.current:
                for topic in ("screen", ticket.visitor.topic):
                    self.hub.publish(topic, "preview", self.rough, passing=True)
                self._tell_done()

    def on_image(self, path: Path, seconds: float) -> None:
        """Show a finished image; return when the pages that show it have got it, or SHOW_FIRST seconds later."""
        with self._news:
            ticket = self.current
            if not ticket:
                return
            self.seconds.append(seconds)
            ticket.image = path
            self._latest[ticket.id] = ticket
            visitor = ticket.visitor
            visitor.ticket, visitor.picture, visitor.since = None, ticket.id, time.monotonic()
            self._tell(visitor)
            self.hub.publish("screen", "picture", told.card(ticket.id, ticket.prompt, ticket.wave, ticket.places))
            pages = self.hub.count("screen") + self.hub.count(visitor.topic)
            self._news.wait_for(lambda: self._fetched[ticket.id] >= pages or self._closing, SHOW_FIRST)

    def on_fetched(self, id: str) -> None:
        """Note that a page has got an image."""
        with self._news:
            if id in self._latest:
                self._fetched[id] += 1
                self._news.notify_all()

    # --- pictures -----------------------------------------------------------------------------------------------------
    def find(self, id: str) -> tuple[Path, Entry] | None:
        """Return the file and the entry of an image that may be shown."""
        entry = self.session.find(id)
        if entry:
            return None if entry.hidden else (self.session.folder / entry.image, entry)
        ticket = self._latest.get(id)
        if ticket and ticket.image:
            return ticket.image, Entry(id, ticket.prompt, ticket.image.name, "", wave=ticket.wave, places=ticket.places)
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
        with self.lock:
            newest = self.session.all()[0] is entry and not self.current
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
        with self.lock:
            for visitor in self.visitors.values():
                if visitor.picture == id:
                    visitor.picture, visitor.problem = "", "removed"
                    self._tell(visitor)
        self.hub.refresh("screen")
        self.hub.publish("gallery", "changed", None)
        self._tell_artist()

    # --- what pages are told ------------------------------------------------------------------------------------------
    def _snapshot(self, topic: str) -> list[tuple[str, Any]]:
        with self.lock:
            if topic == "screen":
                return [("show", told.screen(self))]
            if topic == "artist":
                return [("all", told.artist(self))]
            if topic == "gallery":
                return [("changed", None)]
            visitor = self.visitors.get(topic.removeprefix("visitor "))
            return [("you", told.visitor(self, visitor))] if visitor else []

    def _tell(self, visitor: Visitor) -> None:
        self.hub.publish(visitor.topic, "you", told.visitor(self, visitor))

    def _tell_artist(self) -> None:
        if self.hub.count("artist"):
            self.hub.publish("artist", "all", told.artist(self), passing=True)

    def _tell_all(self) -> None:
        """Tell every visitor and the artist what is so now."""
        with self.lock:
            for visitor in self.visitors.values():
                if self.hub.count(visitor.topic):
                    self._tell(visitor)
        self._tell_artist()

    # --- the artist ---------------------------------------------------------------------------------------------------
    def change(self, settings: dict[str, Any]) -> None:
        """Change what the artist's page offers; it was checked before."""
        with self.lock:
            for name in ("prompts", "free_prompt", "paused", "microphone"):
                if name in settings:
                    setattr(self, name, settings[name])
            for name in ("steps", "budget"):
                if name in settings:
                    setattr(self.options, name, settings[name])
        self._tell_all()


def _data_url(path: Path) -> str:
    """Return a PNG file as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
