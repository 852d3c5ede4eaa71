"""Measure the stage: python -m benchmarks.stage {latency,crowd,idle,screens} [...]

The program runs as a show does, with the built-in model; the pages run in Debian's Chromium without a window, whose
microphone plays a real voice over and over.

latency: from letting go of the button to the finished image on / and /screen, and to the first preview, beside the time
         from ENTER to the PNG file at a terminal (needs PulseAudio, as tests/sound.py); medians; takes 3 minutes
crowd:   twenty visitors at once, screens and phones beside them: whether each gets an image, and how the memory of the
         server grows
idle:    memory and open files of the server over time, with three pages open
screens: pictures of all pages in all states and sizes, to look at
"""

import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cli
import config
from benchmarks.enter_to_image import speak_once
from tests import sound
from tests.person import Person
from tests.programs import PATIENCE, wait_until
from tests.stage import browser
from tests.stage.house import Guest, voice, wav_of

if TYPE_CHECKING:
    import numpy as np
    from playwright.sync_api import Page

VOICE = config.EXAMPLES_DIR / "voice_fr.wav"  # short, so that ten recordings on pages and at a terminal take 3 minutes
PROMPT = "calm blue and turquoise waves"
SPOKEN = 2.7  # seconds of each recording: the whole voice
SETTLED = 1.0  # seconds that pages have after they are loaded
VISITORS, SCREENS, PHONES = 20, 3, 5
FIRST = 10  # recording from which growth of memory is counted
SHOWN = ("image on /", "image on /screen")
MOST_RATIO = 1.25  # of the time from the button to these, against ENTER to PNG at a terminal
MOST_FIRST = 0.35  # seconds to the first preview
MOST_GROWTH = 20.0  # MB from that one to the last
MOST_SLOPE, MOST_HANDLES = 1.0, 1.0  # MB, and open files, an hour while nobody speaks
SIZES = {"wall": (1920, 1080), "laptop": (1280, 720), "tablet": (768, 1024), "phone": (390, 844)}
# Notes that the microphone delivers.
LISTEN = """
  window.AudioWorkletNode = class extends AudioWorkletNode {
    constructor(...how) {
      super(...how);
      this.port.addEventListener("message", () => (window.listening = true));
    }
  };"""
# Notes when the button is let go, and when a preview and the image are decoded and painted; it draws nothing itself.
WATCH = """() => {
  const old = document.querySelector("main img.on, #picture")?.getAttribute("src");
  window.seen = {};
  window.whole = new Promise((resolve) => {
    const note = (name) => {
      seen[name] ??= Date.now();
      if (name === "image") { watcher.disconnect(); resolve(seen); }
    };
    const look = async (image) => {
      if (image.matches("#rough:not([hidden]), #wall > canvas") && !("preview" in seen))
        requestAnimationFrame(() => setTimeout(note, 0, "preview"));
      if (!(image instanceof HTMLImageElement)) return;
      const src = image.getAttribute("src") ?? "";
      if (!src.startsWith("/image/") || src === old || "image" in seen) return;
      await image.decode().catch(() => {});
      if (image.isConnected && image.getAttribute("src") === src)
        requestAnimationFrame(() => setTimeout(note, 0, "image"));
    };
    const watcher = new MutationObserver((changes) => {
      for (const { target, addedNodes } of changes)
        for (const node of [target, ...addedNodes]) if (node instanceof Element) look(node);
    });
    const what = { subtree: true, childList: true, attributeFilter: ["src", "hidden"] };
    watcher.observe(document.querySelector("main"), what);
  });
  addEventListener("keyup", () => (seen.released ??= Date.now()), { once: true, capture: true });
}"""


class Program:
    """The stage as a process of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        """Start it; its output goes to a file in `folder`."""
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "log"
        command = [
            sys.executable,
            str(config.REPO_DIR / "run_live_workflow.py"),
            "--stage",
            f"--stage_port={self.port}",
        ]
        environment = os.environ | {"VOICETOIMG_DATA_DIR": str(folder)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([*command, *words], env=environment, stdout=log, stderr=log)
        wait_until(lambda: "operator?key=" in self.said or self.process.poll() is not None)
        assert self.process.poll() is None, self.said
        self.operator = re.findall(r"\S+/operator\?key=\S+", self.said)[0]

    @property
    def said(self) -> str:
        """All that it has printed."""
        return self.log.read_text()

    @property
    def cards(self) -> int:
        """Number of cards it has made: the last work for an image."""
        return self.said.count("card: ")

    def memory(self) -> float:
        """Return its resident memory in MB, without that of the scripts."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024

    def files(self) -> int:
        """Return the number of its open files."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


@contextlib.contextmanager
def program(*words: str) -> Iterator[Program]:
    """Run the stage for the length of a block."""
    with tempfile.TemporaryDirectory() as folder:
        running = Program(Path(folder), *words)
        try:
            yield running
        finally:
            running.process.terminate()
            running.process.wait(30)


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


# --- latency ----------------------------------------------------------------------------------------------------------
def latency(recordings: int, steps: int) -> bool:
    """Print the medians of a show on pages and of one at a terminal, whose recordings take turns; return the verdict.

    The pages are blank while the terminal has its turn.
    """
    if lacking := sound.missing():
        cli.fail(lacking)
    seconds: dict[str, list[float]] = {name: [] for name in ("preview on /", *SHOWN, "ENTER to PNG")}
    options = (f"--prompt={PROMPT}", f"--steps={steps}")
    with (
        program(*options) as stage,
        browser.chromium(VOICE) as chromium,
        sound.sound_server() as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        environment = server.environment | {"VOICETOIMG_DATA_DIR": folder}
        person = Person(environment, *options, "--loop", script=config.REPO_DIR / "run_live_workflow.py")
        person.waits_for("Press ENTER to start recording...")
        pages = [chromium.new_context(permissions=["microphone"], locale="en-GB").new_page()]
        pages.append(chromium.new_context(viewport={"width": 1920, "height": 1080}).new_page())
        for page in pages:
            page.set_default_timeout(1000 * PATIENCE)
        pages[0].add_init_script(LISTEN)
        for turn in range(recordings + 1):  # the first one of each warms up
            times = _on_pages(pages, stage)
            times["ENTER to PNG"] = speak_once(person, server, Path(folder), VOICE)
            for name, value in times.items() if turn else ():
                seconds[name].append(value)
        person.presses("q\n")
        person.sees_the_end()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {name: medians[name] / medians["ENTER to PNG"] for name in SHOWN}
    print(f"{steps} steps, medians of {recordings} (least to most):")
    for name, values in seconds.items():
        ratio = f", {ratios[name]:.2f} of the terminal (at most {MOST_RATIO:g})" if name in ratios else ""
        most = f" (at most {MOST_FIRST:g} s)" if name.startswith("preview") else ""
        print(f"  {name:18}{medians[name]:6.2f} s  ({min(values):.2f} to {max(values):.2f}){ratio}{most}")
    kept = max(ratios.values()) <= MOST_RATIO and medians["preview on /"] <= MOST_FIRST
    print("kept" if kept else "NOT KEPT")
    return kept


def _on_pages(pages: list["Page"], stage: Program) -> dict[str, float]:
    """Speak once on the visitor's page, and return the seconds from the release to what the pages show."""
    (visitor, screen), cards = pages, stage.cards
    screen.goto(f"{stage.url}/screen")
    visitor.goto(stage.url)
    visitor.wait_for_selector("[data-state=ready]")
    wait_until(lambda: bool(visitor.evaluate("window.listening")))
    wait_until(lambda: visitor.inner_text("#message") == "")  # the model is loaded
    time.sleep(SETTLED)
    for page in pages:
        page.evaluate(WATCH)
    visitor.keyboard.down("Space")
    visitor.wait_for_timeout(1000 * SPOKEN)
    visitor.keyboard.up("Space")
    seen, on_screen = visitor.evaluate("whole"), screen.evaluate("whole")
    visitor.click("#again")
    visitor.wait_for_selector("[data-state=ready]")
    for page in pages:
        page.goto("about:blank")
    wait_until(lambda: stage.cards > cards)
    times = {"preview on /": seen["preview"], "image on /": seen["image"], "image on /screen": on_screen["image"]}
    return {name: (value - seen["released"]) / 1000 for name, value in times.items()}


# --- many visitors ----------------------------------------------------------------------------------------------------
class _House:
    """The parts of a stage that a guest uses."""

    def __init__(self, stage: Program) -> None:
        self.url, self.address = stage.url, stage


@dataclass
class _Crowd:
    """Visitors who speak again and again, until there were so many recordings."""

    stage: Program
    recordings: int
    memory: list[float] = field(default_factory=list)  # MB of the server after each image
    images: dict[str, int] = field(default_factory=dict)  # id: number of the recording
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Prepare to number the recordings."""
        self._left, self._lock = iter(range(self.recordings)), threading.Lock()

    def visit(self, guest: Guest) -> None:
        """Speak as one visitor."""
        with guest.events("visitor") as events:
            while True:
                with self._lock:
                    if (turn := next(self._left, None)) is None:
                        return
                id = _speak(guest, events, voice(1.5, seed=turn))
                with self._lock:
                    self.memory.append(self.stage.memory())
                    if not id or id in self.images:
                        self.wrong.append(f"recording {turn}: {'the image of another' if id else 'no image'}")
                    self.images[id] = turn
                for _ in range(PHONES if id and turn % 10 == 0 else 0):
                    status, _ = Guest(_House(self.stage)).get(f"/p/{id}")  # type: ignore[arg-type]
                    if status != 200:
                        self.wrong.append(f"recording {turn}: /p/ answers {status}")


def crowd(recordings: int, steps: int) -> bool:
    """Let visitors speak at once; print whether each gets an image, and the memory; return the verdict."""
    with program(f"--prompt={PROMPT}", f"--steps={steps}") as stage, contextlib.ExitStack() as open_pages:
        guests = [Guest(_House(stage)) for _ in range(VISITORS)]  # type: ignore[arg-type]
        for guest in guests:
            guest.get("/")
        for _ in range(SCREENS):
            _watch(open_pages, Guest(_House(stage)))  # type: ignore[arg-type]
        one = _Crowd(stage, recordings)
        with ThreadPoolExecutor(VISITORS) as pool:
            list(pool.map(one.visit, guests))
        wait_until(lambda: len(_gallery(guests[0])) == recordings or bool(one.wrong))
        gallery = _gallery(guests[0])
        one.wrong += [f"recording {turn}: not in the gallery" for id, turn in one.images.items() if id not in gallery]
        print(f"{recordings} recordings of {VISITORS} visitors: {len(gallery)} images", *one.wrong, sep="\n  ")
        growth = one.memory[-1] - one.memory[min(FIRST, recordings) - 1]
        kept = not one.wrong and growth <= MOST_GROWTH
        print(
            f"memory of the server: {one.memory[-1]:.0f} MB, {growth:+.1f} MB since recording {min(FIRST, recordings)} "
            f"(at most {MOST_GROWTH:g}): {'kept' if kept else 'NOT KEPT'}"
        )
        return kept


def _gallery(guest: Guest) -> set[str]:
    """Return the ids of the images in the gallery."""
    return set(re.findall(r'data-id="([^"]+)"', guest.get("/gallery")[1]))


def _watch(stack: contextlib.ExitStack, guest: Guest) -> None:
    """Follow the events of a screen until the end, and fetch its images."""
    events = stack.enter_context(guest.events("screen"))

    def follow() -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # as http.client says of a closed connection
            for _, name, content in events:
                if name == "picture":
                    guest.get(f"/image/{content['id']}")

    threading.Thread(target=follow, daemon=True).start()


def _speak(guest: Guest, events: Iterator[Any], spoken: "np.ndarray") -> str:
    """Speak until there is room, and return the id of the image that this visitor is told of, "" if there is none."""
    while True:
        status, answer = guest.post("/recordings", {"prompt": ""})
        if status == 201:
            break
        time.sleep(0.5)  # the page says: in a minute
    verdict = guest.piece(answer["recording"], 0, wav_of(spoken), last=True)[1]
    spoke = False
    for _, name, content in events if not verdict["problem"] else ():
        if name == "you":
            spoke = spoke or content["state"] in ("waiting", "painting")
            if spoke and content["picture"]:
                status, _ = guest.get(f"/image/{content['picture']}")
                guest.post("/again")
                return str(content["picture"]) if status == 200 else ""
            if spoke and content["problem"]:
                return ""
    return ""


# --- idle -------------------------------------------------------------------------------------------------------------
def idle(minutes: float) -> bool:
    """Print memory and open files of the server every tenth of the time, and their slopes; return whether it is flat.

    The pages have no microphone, which a browser would listen to all the time.
    """
    with program(f"--prompt={PROMPT}", "--steps=5") as stage, browser.chromium(VOICE) as chromium:
        guest = Guest(_House(stage))  # type: ignore[arg-type]
        guest.get("/")
        with guest.events("visitor") as events:
            assert _speak(guest, events, voice(1.5))
        for path in ("/", "/screen", "/gallery"):
            chromium.new_context().new_page().goto(stage.url + path)
        time.sleep(SETTLED)
        points: list[tuple[float, float, int]] = []  # hours, MB, open files
        started = time.monotonic()
        for tenth in range(11):
            while (left := started + tenth * minutes * 6 - time.monotonic()) > 0:
                time.sleep(left)
            points.append(((time.monotonic() - started) / 3600, stage.memory(), stage.files()))
            print(f"{time.strftime('%H:%M:%S')} {points[-1][1]:.1f} MB, {points[-1][2]} open files", flush=True)
        hours, memory, files = zip(*points[1:], strict=True)  # the first tenth may still fill caches
        megabytes, handles = (statistics.linear_regression(hours, values).slope for values in (memory, files))
        flat = megabytes <= MOST_SLOPE and handles <= MOST_HANDLES
        print(
            f"{minutes:g} minutes idle; an hour: {megabytes:+.2f} MB (at most {MOST_SLOPE:g}), "
            f"{handles:+.2f} open files (at most {MOST_HANDLES:g}): {'flat' if flat else 'NOT FLAT'}"
        )
        return flat


# --- pictures of the pages --------------------------------------------------------------------------------------------
def screens(folder: Path) -> None:
    """Write a picture of each page in each state and size."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        prompts = Path(name) / "prompts.txt"
        prompts.write_text("a golden spiral on purple\na blue butterfly\ncalm blue and turquoise waves\na red flower\n")
        with (
            program(f"--prompts={prompts}", "--free_prompt", "--steps=12") as stage,
            browser.chromium(VOICE) as chromium,
        ):
            for size, (width, height) in SIZES.items():
                context = chromium.new_context(
                    viewport={"width": width, "height": height}, permissions=["microphone"], locale="en-GB"
                )
                _tour(context, stage, folder, size)
                context.close()


def _tour(context: Any, stage: Program, folder: Path, size: str) -> None:
    def take(page: Any, name: str, pause: int = 0) -> None:
        page.wait_for_timeout(pause)
        page.screenshot(path=folder / f"{size}_{name}.png")

    context.set_default_timeout(1000 * PATIENCE)
    page, screen = context.new_page(), context.new_page()
    screen.goto(f"{stage.url}/screen")
    page.goto(stage.url)
    page.wait_for_selector("[data-state=ready]")
    take(screen, "screen_start", 3000)
    take(page, "visitor_ready", 500)
    page.locator("fieldset label").nth(list(SIZES).index(size)).click()
    page.keyboard.down("Space")
    page.wait_for_selector("[data-state=speaking]")
    take(page, "visitor_speaking", 2000)
    take(screen, "screen_speaking", 500)
    page.keyboard.up("Space")
    page.wait_for_selector("[data-state=painting] #rough:not([hidden])")
    take(page, "visitor_painting")
    screen.wait_for_selector("#wall > canvas")
    take(screen, "screen_painting")
    page.wait_for_selector("[data-state=picture]")
    take(page, "visitor_picture", 1500)
    take(screen, "screen_picture", 2500)
    id = page.get_attribute("#picture", "src").removeprefix("/image/")
    page.click("#again")
    page.wait_for_selector("[data-state=ready]")
    page.keyboard.press("Space")
    page.wait_for_selector("[data-state=speaking]")
    page.wait_for_timeout(50)
    if page.inner_text("#label"):  # a slow machine may have taken the tap for a press
        page.keyboard.press("Space")
    page.wait_for_selector("[data-state=ready], [data-state=picture]")
    take(page, "visitor_short", 500)
    for name, path in (("gallery", "/gallery"), ("p", f"/p/{id}"), ("missing", "/p/gone")):
        page.goto(stage.url + path)
        take(page, name, 800)
    page.goto(stage.operator)
    take(page, "operator", 1000)


def main() -> int:
    """Run the command line; the exit status is 1 if a bar is not kept."""
    parser = cli.CommandParser(__doc__)
    parser.add_argument("command", choices=("latency", "crowd", "idle", "screens"))
    parser.add_argument("--recordings", type=cli.bounded(int, 2), metavar="N", help="default: 10; of crowd 100")
    parser.add_argument("--steps", type=cli.bounded(int, 1), metavar="N", help="default: 20; of crowd 5")
    parser.add_argument("--minutes", type=cli.bounded(float, 0.1), default=60.0, metavar="M", help="of idle")
    parser.add_argument("--folder", type=Path, default=Path("screens"), metavar="DIR", help="of screens")
    args = parser.parse_args()
    if args.command != "crowd" and (lacking := browser.missing()):
        cli.fail(lacking)
    if args.command == "latency":
        fine = latency(args.recordings or 10, args.steps or 20)
    elif args.command == "crowd":
        fine = crowd(args.recordings or 100, args.steps or 5)
    elif args.command == "idle":
        fine = idle(args.minutes)
    else:
        screens(args.folder)
        fine = True
    return 0 if fine else 1


if __name__ == "__main__":
    cli.run(main)
