"""A stage for each module of tests, guests of it, and a browser with a voice in its microphone."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.stage import browser
from tests.stage.house import Guest, House, house, voice, wav_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser

VOICE_SECONDS = 5.0


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A stage that all tests of a module share; each of them brings its own guests."""
    with house(tmp_path_factory.mktemp("stage"), "--free_prompt") as running:
        yield running


@pytest.fixture
def guest(stage: House) -> Guest:
    """A visitor who has opened the page."""
    one = stage.guest()
    assert one.get("/")[0] == 200
    return one


@pytest.fixture
def artist(stage: House) -> Guest:
    """A browser that has the key."""
    one = stage.guest()
    assert one.get(f"/operator?key={stage.key.text}")[0] == 303
    return one


@pytest.fixture(scope="session")
def browser_there() -> None:
    """Chromium and playwright, without which the test is skipped, or fails in CI."""
    lacking = browser.missing()
    if lacking and browser.must_be_there():
        pytest.fail(f"{lacking}; install it, so that the pages are tested")
    if lacking:
        pytest.skip(lacking)


@pytest.fixture(scope="session")
def chromium(browser_there: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Browser"]:
    """A browser whose microphone plays a voice of VOICE_SECONDS over and over."""
    microphone = tmp_path_factory.mktemp("microphone") / "voice.wav"
    microphone.write_bytes(wav_of(voice(VOICE_SECONDS)))
    with browser.chromium(microphone) as running:
        yield running
