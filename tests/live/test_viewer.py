"""The viewer of images: one window, and what is said if there is none."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import run_live_workflow
from live.viewer import Viewer, find_viewer
from tests.programs import PATIENCE, wait_until

DESKTOP = '#!/bin/sh\necho "$1" >> {opened}\n'


@pytest.fixture
def opener(tmp_path, monkeypatch) -> Callable[[str], Path]:
    """Let a shell script be the program that opens files; return where it may list them."""

    def be(script: str) -> Path:
        opened, program = tmp_path / "opened", tmp_path / "bin" / "xdg-open"
        program.parent.mkdir(exist_ok=True)
        program.write_text(script.format(opened=opened))
        program.chmod(0o755)
        return opened

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("DISPLAY", ":9")
    return be


def test_a_single_image_is_opened_itself(opener, tmp_path):
    opened = opener(DESKTOP)
    said: list[str] = []
    viewer = Viewer(None, said.append)
    viewer.show(tmp_path / "a.png")
    viewer.settle()
    assert opened.read_text() == f"{tmp_path / 'a.png'}\n" and said == []


def test_several_images_are_shown_by_one_page(opener, tmp_path):
    opened, page = opener(DESKTOP), tmp_path / "out" / "newest.html"
    viewer = Viewer(page, print)
    for number in range(3):
        viewer.show(tmp_path / f"{number} of 'three'.png")
        viewer.settle()
        (address,) = re.findall(r'^show\("(.*)"\);\n$', page.with_suffix(".js").read_text())
        assert address == (tmp_path / f"{number} of 'three'.png").as_uri()
    assert opened.read_text() == f"{page}\n"
    assert 'script.src = "newest.js?"' in page.read_text() and "http" not in page.read_text()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no browser")
def test_the_page_shows_the_newest_image_in_a_browser(opener, tmp_path):
    opener(DESKTOP)
    page = tmp_path / "newest.html"
    viewer = Viewer(page, print)
    for number in range(2):
        viewer.show(tmp_path / f"größer {number}.png")
        command = ["chromium", "--headless", "--no-sandbox", "--virtual-time-budget=3000", "--dump-dom", str(page)]
        environment = os.environ | {"HOME": str(tmp_path)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment)
        assert f'<img alt="the newest image" src="{tmp_path.as_uri()}/gr%C3%B6%C3%9Fer%20{number}.png">' in done.stdout


def test_a_viewer_that_fails_is_named_with_its_reason(opener, tmp_path):
    opener("#!/bin/sh\necho first >&2\necho 'no application for this' >&2\nexit 3\n")
    said: list[str] = []
    viewer = Viewer(None, said.append)
    viewer.show(tmp_path / "a.png")
    wait_until(lambda: bool(said))
    assert said == [f"warning: xdg-open cannot open {tmp_path / 'a.png'} (status 3): no application for this"]


def test_a_viewer_that_fails_without_a_word(opener, tmp_path):
    opener("#!/bin/sh\nexit 4\n")
    said: list[str] = []
    viewer = Viewer(None, said.append)
    viewer.show(tmp_path / "a.png")
    wait_until(lambda: bool(said))
    assert said == [f"warning: xdg-open cannot open {tmp_path / 'a.png'} (status 4)"]


def test_no_desktop_is_named(opener, monkeypatch):
    opener(DESKTOP)
    assert find_viewer() == "xdg-open"
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(OSError, match="--open needs a desktop, and neither DISPLAY nor WAYLAND_DISPLAY is set"):
        find_viewer()
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert find_viewer() == "xdg-open"
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(OSError, match="--open needs xdg-open, which is not installed"):
        find_viewer()


def test_a_run_without_a_desktop_makes_its_images_all_the_same(opener, monkeypatch, capsys):
    from live.terminal import Terminal

    opener(DESKTOP)
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert not run_live_workflow.has_viewer(Terminal())
    assert capsys.readouterr().err.startswith("warning: --open needs a desktop")
