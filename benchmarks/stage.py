"""Measure the stage: python -m benchmarks.stage {latency,crowd,idle,screens} [...]

The program runs as a show does, with the built-in model; the pages run in Debian's Chromium without a window, whose
microphone plays a real voice over and over.

latency: from letting go of the button to the finished image on / and /screen, and to the first preview, beside the time
         from ENTER to the PNG file at a terminal (needs PulseAudio, as tests/sound.py); medians
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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cli
import config
from tests.programs import wait_until
from tests.stage import browser
from tests.stage.house import Guest, voice

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

VOICE = config.EXAMPLES_DIR / "voice_it.wav"  # 5.0 s
PROMPT = "calm blue and turquoise waves"
SPOKEN = 5.0  # seconds of each recording
SETTLED = 3.0  # seconds before the first recording
VISITORS, SCREENS, PHONES = 20, 3, 5
FIRST = 10  # recording from which growth of memory is counted
SIZES = {"wall": (1920, 1080), "laptop": (1280, 720), "tablet": (768, 1024), "phone": (390, 844)}
# Notes in a page when the picture, or a rough one, is first painted by the browser.
WATCH = """() => { window.seen = {}; const note = (name) => seen[name] ??= Date.now();
  const look = () => {
    for (const image of document.querySelectorAll("main img")) {
      if (!image.complete || !image.naturalWidth) continue;
      const src = image.getAttribute("src");
      if (src.startsWith("data:")) note("preview");
      else if (src.startsWith("/image/") && src !== window.old) note("image");
    }
    requestAnimationFrame(look);
  };
  window.old = document.querySelector("main img.on, #picture")?.getAttribute("src"); look(); }"""


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


def visitor_page(chromium: "Browser", url: str) -> "Page":
    """Open the visitor's page, and wait until its microphone is open."""
    page = chromium.new_context(permissions=["microphone"], locale="en-GB").new_page()
    page.goto(url)
    page.wait_for_selector("[data-state=ready]")
    page.wait_for_timeout(1000 * SETTLED)
    wait_until(lambda: page.inner_text("#message") == "")  # the model is loaded
    return page


# --- latency ----------------------------------------------------------------------------------------------------------
def latency(recordings: int, steps: int) -> None:
    """Print the medians of a show on pages, and of one at a terminal, in turn on the same machine."""
    shown: dict[str, list[float]] = {"preview on /": [], "image on /": [], "image on /screen": []}
    with program(f"--prompt={PROMPT}", f"--steps={steps}") as stage, browser.chromium(VOICE) as chromium:
        page = visitor_page(chromium, stage.url)
        screen = chromium.new_context(viewport={"width": 1920, "height": 1080}).new_page()
        screen.goto(f"{stage.url}/screen")
        for _ in range(recordings):
            for one in (page, screen):
                one.evaluate(WATCH)
            page.keyboard.down("Space")
            page.wait_for_timeout(1000 * SPOKEN)
            released = page.evaluate("Date.now()")
            page.keyboard.up("Space")
            wait_until(lambda: "image" in page.evaluate("seen") and "image" in screen.evaluate("seen"))
            seen = page.evaluate("seen")
            shown["preview on /"].append((seen["preview"] - released) / 1000)
            shown["image on /"].append((seen["image"] - released) / 1000)
            shown["image on /screen"].append((screen.evaluate("seen")["image"] - released) / 1000)
            page.click("#again")
            page.wait_for_selector("[data-state=ready]")
    terminal = _terminal(steps, recordings)
    print(f"{steps} steps, medians of {recordings} (least to most):")
    for name, seconds in shown.items():
        against = f", {statistics.median(seconds) / terminal:.2f} of the terminal" if name.startswith("image") else ""
        spread = f"({min(seconds):.2f} to {max(seconds):.2f})"
        print(f"  {name:18}{statistics.median(seconds):6.2f} s  {spread}{against}")
    print(f"  {'ENTER to PNG':18}{terminal:6.2f} s")


def _terminal(steps: int, recordings: int) -> float:
    from benchmarks.enter_to_image import workflow
    from tests import sound

    if lacking := sound.missing():
        cli.fail(lacking)
    with sound.sound_server() as server:
        return statistics.median(workflow(server, steps, recordings))


# --- many visitors ----------------------------------------------------------------------------------------------------
class _House:
    """The parts of a stage that a guest uses."""

    def __init__(self, stage: Program) -> None:
        self.url, self.address = stage.url, stage


def crowd(recordings: int, steps: int) -> None:
    """Let visitors speak at once, again and again, until there are so many recordings."""
    left = iter(range(recordings))
    lock, memory, wrong = threading.Lock(), [], []
    with program(f"--prompt={PROMPT}", f"--steps={steps}") as stage, contextlib.ExitStack() as open_pages:
        guests = [Guest(_House(stage)) for _ in range(VISITORS)]  # type: ignore[arg-type]
        for guest in guests:
            guest.get("/")
        for _ in range(SCREENS):
            _watch(open_pages, Guest(_House(stage)))  # type: ignore[arg-type]

        def visit(number: int) -> None:
            guest = guests[number]
            with guest.events("visitor") as events:
                while True:
                    with lock:
                        if (turn := next(left, None)) is None:
                            return
                    spoken = voice(1.5, seed=turn)
                    id = _speak(guest, events, spoken)
                    with lock:
                        memory.append(stage.memory())
                        if not id:
                            wrong.append(turn)
                    for _ in range(PHONES if turn % 10 == 0 else 0):
                        assert Guest(_House(stage)).get(f"/p/{id}")[0] == 200  # type: ignore[arg-type]

        with ThreadPoolExecutor(VISITORS) as pool:
            list(pool.map(visit, range(VISITORS)))
        time.sleep(SETTLED)  # in which the last image comes into the session
        ids = set(re.findall(r'data-id="([^"]+)"', guests[0].get("/gallery")[1]))
        print(f"{recordings} recordings of {VISITORS} visitors: {len(ids)} images, {len(wrong)} without")
        growth = memory[-1] - memory[min(FIRST, len(memory) - 1)]
        print(f"memory of the server: {memory[-1]:.0f} MB, {growth:+.1f} MB since recording {FIRST}")


def _watch(stack: contextlib.ExitStack, guest: Guest) -> None:
    """Read the events of a screen until the end."""
    events = stack.enter_context(guest.events("screen"))
    threading.Thread(target=lambda: _exhaust(events), daemon=True).start()


def _exhaust(events: Iterator[Any]) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # as http.client says of a closed connection
        for _ in events:
            pass


def _speak(guest: Guest, events: Iterator[Any], spoken: Any) -> str:
    """Speak until there is room, and return the id of the image that this visitor is told of."""
    while True:
        status, answer = guest.post("/recordings", {"prompt": ""})
        if status == 201:
            break
        time.sleep(0.5)  # the page says: in a minute
    from tests.stage.house import wav_of

    assert guest.piece(answer["recording"], 0, wav_of(spoken), last=True)[1]["problem"] == ""
    spoke = False
    for _, name, content in events:
        if name == "you":
            spoke = spoke or content["state"] in ("waiting", "painting")
            if spoke and content["picture"]:
                guest.post("/again")
                return str(content["picture"])
            if spoke and content["problem"]:
                return ""
    return ""


# --- idle -------------------------------------------------------------------------------------------------------------
def idle(minutes: float) -> None:
    """Print memory and open files every tenth of the time, and their slope."""
    with program(f"--prompt={PROMPT}", "--steps=5") as stage, browser.chromium(VOICE) as chromium:
        page = visitor_page(chromium, stage.url)
        for path in ("/screen", "/gallery"):
            chromium.new_page().goto(stage.url + path)
        page.keyboard.down("Space")
        page.wait_for_timeout(2000)
        page.keyboard.up("Space")
        page.wait_for_selector("[data-state=picture]")
        points = []
        for _ in range(11):
            points.append((stage.memory(), stage.files()))
            print(f"{time.strftime('%H:%M:%S')} {points[-1][0]:.1f} MB, {points[-1][1]} open files", flush=True)
            page.wait_for_timeout(minutes * 60_000 / 10)
        (first, files), (last, files_last) = points[1], points[-1]
        hours = 0.9 * minutes / 60
        print(
            f"slope: {(last - first) / hours:+.2f} MB an hour, {(files_last - files) / hours:+.1f} open files an hour"
        )


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
    page.wait_for_selector("[data-state=painting]")
    take(page, "visitor_painting", 250)
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


def main() -> None:
    """Run the command line."""
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
        latency(args.recordings or 10, args.steps or 20)
    elif args.command == "crowd":
        crowd(args.recordings or 100, args.steps or 5)
    elif args.command == "idle":
        idle(args.minutes)
    else:
        screens(args.folder)


if __name__ == "__main__":
    main()
