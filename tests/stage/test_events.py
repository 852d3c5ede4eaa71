"""Event streams: bounded queues, what a page missed, and the end of the server."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from stage import events
from stage.events import HISTORY, QUEUE, EventStream, Hub, Subscriber
from tests.programs import PATIENCE, wait_until
from tests.stage.house import DESCRIPTION, house, voice


def names(block: bytes) -> list[str]:
    return [line.removeprefix("event: ") for line in block.decode().splitlines() if line.startswith("event: ")]


def contents(block: bytes) -> list[Any]:
    return [json.loads(line.removeprefix("data: ")) for line in block.decode().splitlines() if line.startswith("data")]


@pytest.fixture
def hub() -> Hub:
    return Hub(lambda topic: [("state", topic)])


def in_loop(work: Any) -> Any:
    """Run work in a thread of its own, because playwright may have left its loop in this one."""

    async def run() -> Any:
        return await asyncio.wait_for(work(), PATIENCE)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(run())).result()


def test_the_newest_preview_replaces_the_one_before(hub):
    async def work() -> list[Any]:
        hub.open()
        page, _ = hub.subscribe("screen", "")
        for number in range(100):
            hub.publish("screen", "preview", number, passing=True)
            hub.publish("screen", "progress", number, passing=True)
        await asyncio.sleep(0)
        assert len(page) == 2
        return contents(await page.take())

    assert in_loop(work) == [99, 99]


def test_a_page_that_is_too_slow_gets_the_whole_state_and_holds_nobody_up(hub):
    async def work() -> None:
        hub.open()
        slow, _ = hub.subscribe("screen", "")
        quick, _ = hub.subscribe("screen", "")
        came = []
        for number in range(3 * QUEUE):
            hub.publish("screen", "picture", number)
            await asyncio.sleep(0)
            came += contents(await quick.take())
            assert len(slow) <= QUEUE
        assert came == [*range(3 * QUEUE)] and slow.lost and not quick.lost

    in_loop(work)


def test_previews_go_before_events_that_count():
    async def work() -> list[str]:
        hub = Hub(lambda topic: [])
        hub.open()
        page, _ = hub.subscribe("a", "")
        hub.publish("a", "preview", 0, passing=True)
        for number in range(QUEUE):
            hub.publish("a", "picture", number)
        await asyncio.sleep(0)
        assert not page.lost
        return names(await page.take())

    assert in_loop(work) == ["picture"] * QUEUE


def test_a_page_that_was_cut_off_gets_what_it_missed_and_no_more(hub):
    async def work() -> None:
        hub.open()
        for number in range(5):
            hub.publish("screen", "picture", number)
            hub.publish("visitor x", "you", "secret")
        await asyncio.sleep(0)
        _, block = hub.subscribe("screen", f"{hub.boot}-5")
        assert contents(block) == [3, 4] and b"secret" not in block

    in_loop(work)


@pytest.mark.parametrize("last", ["", "other-3", "{boot}-x", "{boot}-1", "{boot}--5", "x" * 5000])
def test_a_page_whose_past_is_unknown_gets_the_whole_state(hub, last):
    async def work() -> bytes:
        hub.open()
        for number in range(2 * HISTORY):
            hub.publish("screen", "picture", number)
        await asyncio.sleep(0)
        return hub.subscribe("screen", last.format(boot=hub.boot))[1]

    assert names(in_loop(work)) == ["state"]


def test_a_page_without_events_hears_that_the_server_is_there(hub, monkeypatch):
    monkeypatch.setattr(events, "HEARTBEAT", 0.01)
    sent: list[bytes] = []

    async def work() -> None:
        hub.open()
        gone = asyncio.Event()

        async def receive() -> dict[str, str]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message.get("body", b""))
            if sent.count(events.BEAT) == 3:
                gone.set()

        await EventStream(hub, "screen", "", [])({}, receive, send)  # type: ignore[arg-type]
        assert not hub.count()

    in_loop(work)


def test_a_page_that_takes_nothing_is_given_up(hub, monkeypatch):
    monkeypatch.setattr(events, "STUCK", 0.05)

    async def work() -> None:
        hub.open()

        async def never(*_: Any) -> dict[str, str]:
            await asyncio.Event().wait()
            return {}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.body":
                await never()

        await EventStream(hub, "screen", "", [])({}, never, send)  # type: ignore[arg-type]
        assert not hub.count()

    in_loop(work)


def test_a_queue_without_its_topic_is_forgotten(hub):
    async def work() -> None:
        hub.open()
        page, _ = hub.subscribe("visitor x", "")
        hub.unsubscribe(page)
        hub.unsubscribe(Subscriber("visitor y"))
        assert hub._pages == {}

    in_loop(work)


def test_the_server_ends_with_open_streams(tmp_path):
    with house(tmp_path) as stage:
        guest = stage.guest()
        guest.get("/")
        with guest.events("visitor") as mine, guest.events("screen") as screen:
            assert next(mine)[1] == next(screen)[1] == "hello"
            stage.server.end()
            assert [name for _, name, _ in screen][-1] == "show"  # it ends, rather than going on for ever
            wait_until(lambda: not stage.show.hub.count())


def test_the_screen_is_told_all_of_a_voice(tmp_path):
    with house(tmp_path) as stage:
        guest = stage.guest()
        guest.get("/")
        wait_until(lambda: stage.show.ready)
        with guest.events("screen") as screen:
            guest.speak(voice(1.0))
            id = guest.waits_for_picture()
            told = []
            for _, name, content in screen:
                told.append(name)
                if name == "picture":
                    assert content["id"] == id and len(content["wave"]) > 30 and content["voice"] == DESCRIPTION
                    break
        order = [name for name in told if name in ("hello", "show", "speak", "silence", "paint", "picture")]
        assert order == ["hello", "show", "speak", "silence", "paint", "picture"]
        assert {"wave", "preview"} <= set(told)
