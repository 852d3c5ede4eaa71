"""Debian's Chromium without a window, whose microphone plays a file."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--disable-background-timer-throttling",
    "--autoplay-policy=no-user-gesture-required",
    # What moves on a page is drawn without the emulation of a graphics card, which takes more time than the drawing.
    "--disable-gpu",
    "--disable-software-rasterizer",
    "--in-process-gpu",
)


def missing() -> str:
    """Name what the tests with a browser lack on this machine; "" if nothing."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "needs the package playwright"
    return "" if program() else "needs the program chromium"


def program() -> str:
    """Return the path of Chromium, "" if there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), "")


def must_be_there() -> bool:
    """Tell whether a missing browser is a failure: in a CI that can install it, and where .ci/run says so."""
    if sys.platform != "linux":
        return False
    required = bool(os.environ.get("VOICETOIMG_REQUIRE_BROWSER"))
    return required or (bool(os.environ.get("CI")) and os.geteuid() == 0)


@contextmanager
def chromium(microphone: Path, *more: str) -> Iterator["Browser"]:
    """Run Chromium, with `more` flags, for the length of a block; its microphone plays a wav file over and over."""
    from playwright.sync_api import sync_playwright

    flags = [*FLAGS, *more, f"--use-file-for-fake-audio-capture={microphone}"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=flags, chromium_sandbox=False)
        try:
            yield browser
        finally:
            browser.close()
