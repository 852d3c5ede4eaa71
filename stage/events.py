"""Events for open pages, sent as Server-Sent Events (WHATWG HTML, section 9.2).

Every page has one stream and one topic. A slow or vanished page holds nobody up: its queue is bounded, a newer preview
replaces an older one, and a page that has lost an event gets the whole state again.
"""

import asyncio
import json
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send

QUEUE = 32  # events that wait for one page
HISTORY = 256  # events that a page can be given again after it was cut off
HEARTBEAT = 10.0  # seconds without an event after which BEAT shows that the server is there
BEAT = b"event: beat\ndata: \n\n"
STUCK = 30.0  # seconds in which a page has to take an event
RETRY = 1000  # milliseconds after which a browser connects again

Snapshot = Callable[[str], list[tuple[str, Any]]]  # of a topic: the events that tell its whole state


@dataclass(frozen=True)
class Event:
    """One event of a topic."""

    number: int
    topic: str
    name: str
    text: bytes  # as it is sent
    passing: bool  # only the newest of its name counts, and a page that missed it needs none


class Subscriber:
    """The queue of one open page."""

    def __init__(self, topic: str) -> None:
        """Start empty."""
        self.topic = topic
        self.lost = False  # an event was dropped that is not passing
        self._waiting: deque[Event] = deque()
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, event: Event) -> None:
        """Queue an event, at the cost of older ones if the page is too slow."""
        if event.passing:
            self._waiting = deque(old for old in self._waiting if not (old.passing and old.name == event.name))
        self._waiting.append(event)
        while len(self._waiting) > QUEUE:
            passing = next((old for old in self._waiting if old.passing), None)
            if passing:
                self._waiting.remove(passing)
            else:
                self.lose()
        self._news.set()

    def lose(self) -> None:
        """Forget what waits: the page is to get the whole state instead."""
        self._waiting.clear()
        self.lost = True
        self._news.set()

    async def take(self) -> bytes:
        """Return what waits; b"" after HEARTBEAT seconds without an event, or if the whole state is due."""
        with suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(self._news.wait(), HEARTBEAT)
        self._news.clear()
        events, self._waiting = self._waiting, deque()
        return b"".join(event.text for event in events)


class Hub:
    """All open pages. `publish` may be called from any thread, everything else from that of the event loop."""

    def __init__(self, snapshot: Snapshot) -> None:
        """Start without pages."""
        self.boot = secrets.token_hex(4)  # tells pages that the server was started again
        self.closed = False
        self._snapshot = snapshot
        self._number = 0
        self._history: deque[Event] = deque(maxlen=HISTORY)
        self._pages: dict[str, set[Subscriber]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Take the running event loop as that of all pages."""
        self._loop = asyncio.get_running_loop()

    def publish(self, topic: str, name: str, content: Any, passing: bool = False) -> None:
        """Send an event to all pages of a topic; return at once."""
        self._call(lambda: self._publish(topic, name, content, passing))

    def refresh(self, *topics: str) -> None:
        """Send the whole state to all pages of some topics."""
        self._call(lambda: self._lose(topics))

    def close(self) -> None:
        """End all streams, so that the server can end."""
        self.closed = True
        self.refresh(*self._pages)

    def count(self, topic: str = "") -> int:
        """Return the number of open pages, of one topic or of all."""
        topics = [topic] if topic else [*self._pages]
        return sum(len(self._pages.get(name, ())) for name in topics)

    def _call(self, work: Callable[[], object]) -> None:
        if self._loop:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(work)

    def _lose(self, topics: Iterable[str]) -> None:
        for page in [page for topic in topics for page in self._pages.get(topic, ())]:
            page.lose()

    def _publish(self, topic: str, name: str, content: Any, passing: bool) -> None:
        self._number += 1
        event = Event(self._number, topic, name, self._encode(self._number, name, content), passing)
        if not passing:
            self._history.append(event)
        for page in self._pages.get(topic, ()):
            page.put(event)

    def _encode(self, number: int, name: str, content: Any) -> bytes:
        return f"id: {self.boot}-{number}\nevent: {name}\ndata: {json.dumps(content)}\n\n".encode()

    def state(self, topic: str) -> bytes:
        """Return the events that tell the whole state of a topic."""
        return b"".join(self._encode(self._number, name, content) for name, content in self._snapshot(topic))

    def subscribe(self, topic: str, last_id: str) -> tuple[Subscriber, bytes]:
        """Open a page; return its queue, and what it is to be sent first.

        Args:
            last_id: id of the last event that this page has got (`Last-Event-ID`), or "".
        """
        page = Subscriber(topic)
        self._pages.setdefault(topic, set()).add(page)
        boot, _, number = last_id.partition("-")
        if boot == self.boot and number.isdecimal() and self._history and self._history[0].number <= int(number) + 1:
            missed = (event for event in self._history if event.topic == topic and event.number > int(number))
            return page, b"".join(event.text for event in missed)
        return page, self.state(topic)

    def unsubscribe(self, page: Subscriber) -> None:
        """Close a page."""
        pages = self._pages.get(page.topic, set())
        pages.discard(page)
        if not pages:
            self._pages.pop(page.topic, None)


class EventStream:
    """An ASGI response that stays open as long as the page."""

    def __init__(self, hub: Hub, topic: str, last_id: str, headers: list[tuple[bytes, bytes]]) -> None:
        """Prepare the stream of a topic; `headers` are added to its own."""
        self._hub, self._topic, self._last_id = hub, topic, last_id
        self._headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        self._headers += headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the page closes, takes none for STUCK seconds, or the hub closes."""
        page, first = self._hub.subscribe(self._topic, self._last_id)
        tasks = [asyncio.ensure_future(self._send(page, first, send)), asyncio.ensure_future(_gone(receive))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._hub.unsubscribe(page)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, page: Subscriber, first: bytes, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        hello = f"retry: {RETRY}\nevent: hello\ndata: {json.dumps(self._hub.boot)}\n\n".encode()
        await _body(send, hello + first)
        while not self._hub.closed:
            came = await page.take()
            if page.lost:
                page.lost, came = False, self._hub.state(self._topic)
            await _body(send, came or BEAT)
        await _body(send, b"", more=False)


async def _body(send: Send, body: bytes, more: bool = True) -> None:
    await asyncio.wait_for(send({"type": "http.response.body", "body": body, "more_body": more}), STUCK)


async def _gone(receive: Receive) -> None:
    """Wait until the page has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
