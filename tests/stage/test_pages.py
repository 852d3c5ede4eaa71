"""The pages in a real browser, with a voice from a file as its microphone."""

import base64
import hashlib
import json
import re
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soxr
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from PIL import Image

from stage.app import PAGES
from stage.certificates import own_certificate
from stage.recordings import AFTER, BEFORE
from tests.programs import wait_until
from tests.stage import browser
from tests.stage.conftest import VOICE_SECONDS
from tests.stage.house import RATE, House, house, voice, wav_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, ViewportSize

pytestmark = pytest.mark.slow
WINDOW = RATE // 10  # samples
ALIKE, MOST_WINDOWS = 0.95, 0.8  # correlation of a window, and share of the windows that have it
# Notes what the page gets from its microphone, and when it was told to begin and to end.
LISTEN = """
  window.heard = [];
  window.levels = 0;
  window.told = {};
  window.AudioWorkletNode = class extends AudioWorkletNode {
    constructor(...how) {
      super(...how);
      window.sound = this.context;
      const send = this.port.postMessage.bind(this.port);
      this.port.postMessage = (message) => {
        if (message.name === "start") heard.length = 0;
        told[message.name] = this.context.currentTime;
        send(message);
      };
      this.port.addEventListener("message", ({ data }) => {
        if (data.samples) heard.push(...data.samples);
        else levels++;
      });
    }
  };"""
# The first pixel of the preview, as red, green and blue.
FIRST_PIXEL = """() => {
  const copy = new OffscreenCanvas(32, 32).getContext("2d");
  copy.drawImage(document.querySelector("#rough, #wall > canvas"), 0, 0);
  return [...copy.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}"""
MS = 60_000  # that a busy machine may take
PHONE: "ViewportSize" = {"width": 390, "height": 844}
TABLET: "ViewportSize" = {"width": 768, "height": 1024}
WALL: "ViewportSize" = {"width": 1920, "height": 1080}
SMALL_WALL: "ViewportSize" = {"width": 640, "height": 360}  # each frame of a movement is drawn on the processor


class Tab:
    """One page, and what went wrong in it."""

    def __init__(self, stage: House, page: "Page") -> None:
        self.stage, self.page = stage, page
        self.errors: list[str] = []
        page.set_default_timeout(MS)
        page.add_init_script(LISTEN)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self._hear(message))

    def _hear(self, message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    def open(self, path: str = "/") -> "Tab":
        self.page.goto(self.stage.url + path)
        return self

    def waits_for(self, state: str, timeout: float = MS) -> None:
        """Wait until the visitor's page is in a state, or the screen in a mode."""
        self.page.wait_for_selector(f"[data-state={state}], [data-mode={state}]", timeout=timeout)

    def reads(self, text: str, timeout: float = MS) -> None:
        self.page.get_by_text(text).first.wait_for(timeout=timeout)

    def until(self, script: str) -> None:
        """Wait until an expression is true in the page, whose policy lets playwright's own waiting not run there."""
        wait_until(lambda: bool(self.page.evaluate(script)))

    def hears(self) -> None:
        """Wait until the microphone is open, as its ring of sound is full."""
        self.waits_for("ready")
        self.until("levels > 8")  # of 0.05 s each

    def presses(self, milliseconds: float) -> float:
        """Hold the button; return for how many milliseconds, by the clock of the page."""
        self.page.evaluate(
            """() => { window.held = {}; const button = document.querySelector("#speak");
            for (const name of ["pointerdown", "pointerup"])
              button.addEventListener(name, () => held[name] = performance.now(), {once: true});
            }"""
        )
        box = self.page.locator("#speak").bounding_box()
        assert box
        self.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        self.page.mouse.down()
        self.page.wait_for_timeout(milliseconds)
        self.page.mouse.up()
        return float(self.page.evaluate("held.pointerup - held.pointerdown"))

    def speaks(self, milliseconds: float = 900) -> str:
        """Hold the button until there is a picture; return its id."""
        self.presses(milliseconds)
        self.waits_for("picture")
        address = self.page.locator("#picture").get_attribute("src") or ""
        return address.removeprefix("/image/")


@pytest.fixture(scope="module")
def visitors_tab(stage: House, chromium: "Browser") -> Iterator[Tab]:
    """A page that many visitors use in turn, as a new one takes a second."""
    context = chromium.new_context(viewport=TABLET, permissions=["microphone"], locale="en-GB")
    yield Tab(stage, context.new_page())
    context.close()


@pytest.fixture
def tab(visitors_tab: Tab) -> Iterator[Tab]:
    """A new visitor's page, ready to record."""
    visitors_tab.errors.clear()
    visitors_tab.open().hears()
    yield visitors_tab
    page = visitors_tab.page
    page.context.set_offline(False)
    page.emulate_media(reduced_motion="null")
    page.goto("about:blank")
    page.keyboard.up("Space")
    page.context.clear_cookies()  # by which the stage knows a visitor
    assert not visitors_tab.errors


@pytest.fixture(scope="module")
def still_page(chromium: "Browser") -> Iterator["Page"]:
    """A page for tests that look at one address after the other, without a microphone and without motion."""
    context = chromium.new_context(viewport=WALL, locale="en-GB", reduced_motion="reduce")
    yield context.new_page()
    context.close()


@pytest.fixture
def screen(stage: House, chromium: "Browser") -> Iterator[Tab]:
    context = chromium.new_context(viewport=SMALL_WALL, locale="en-GB")
    one = Tab(stage, context.new_page()).open("/screen")
    yield one
    context.close()
    assert not one.errors


def recording_of(stage: House, id: str) -> tuple[np.ndarray, int]:
    """Return the kept recording of a picture, [T] int16, and its rate."""
    with wave.open(str(stage.voice_of(id))) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate()


def compare(recorded: np.ndarray, played: np.ndarray) -> tuple[float, float]:
    """Return which share of the windows of a recording is a looped sound, and the median of their levels in dB.

    Windows, because Chromium's own microphone drops sound on a busy machine: what comes after that is earlier or later.
    """
    looped = np.concatenate([played, played[:WINDOW]]).astype(float)
    size = 1 << (looped.size + WINDOW).bit_length()
    spectrum = np.fft.rfft(looped, size)
    same, levels = 0, []
    for start in range(0, recorded.size - WINDOW + 1, WINDOW):
        taken = recorded[start : start + WINDOW].astype(float)
        products = np.fft.irfft(spectrum * np.conj(np.fft.rfft(taken, size)), size)
        at = int(products[: looped.size - WINDOW].argmax())
        source = looped[at : at + WINDOW]
        if source @ taken >= ALIKE * np.sqrt((source @ source) * (taken @ taken)) > 0:
            same += 1
            levels.append(10 * np.log10((taken @ taken) / (source @ source)))
    return same / (recorded.size // WINDOW), float(np.median(levels or [np.inf]))


# --- a visit ----------------------------------------------------------------------------------------------------------
def check_sound(stage: House, tab: Tab) -> None:
    """Check that nothing of a recording is missing that the page heard, and that it is neither louder nor softer."""
    tab.waits_for("picture")
    id = (tab.page.locator("#picture").get_attribute("src") or "").removeprefix("/image/")
    recorded, rate = recording_of(stage, id)
    assert rate == RATE and np.array_equal(recorded, json.loads(tab.page.evaluate("JSON.stringify(heard)")))
    held = tab.page.evaluate("told.stop - told.start")  # by the clock of the sound
    assert abs(recorded.size / rate - (held + BEFORE + AFTER)) <= 0.02
    share, level = compare(recorded, voice(VOICE_SECONDS))
    assert share >= MOST_WINDOWS and abs(level) <= 1.0


def test_a_recording_is_the_sound_that_was_there(stage, tab):
    """It has no hole, its own level, and begins before the press and ends after the release."""
    tab.presses(1500)
    check_sound(stage, tab)


def test_a_microphone_of_another_rate_is_recorded_as_well(stage, browser_there, tmp_path):
    rate = 48_000
    sound = soxr.resample(voice(VOICE_SECONDS).astype(np.float32), RATE, rate)
    sound = np.clip(np.rint(sound), -32768, 32767).astype(np.int16)
    (tmp_path / "voice.wav").write_bytes(wav_of(sound, rate))
    # a second playwright cannot run in this thread
    with ThreadPoolExecutor(1) as other:
        other.submit(_record_there, stage, tmp_path / "voice.wav").result()


def _record_there(stage: House, microphone: Path) -> None:
    with browser.chromium(microphone) as chromium:
        page = chromium.new_context(viewport=TABLET, permissions=["microphone"], locale="en-GB").new_page()
        tab = Tab(stage, page).open()
        tab.hears()
        tab.presses(1500)
        check_sound(stage, tab)


def test_the_microphone_rests_while_an_image_is_painted(stage, tab):
    """Its sound takes no time of the processor then, and the next recording is whole again."""
    stage.show.change({"prompts": ["wait for it"]})
    (stage.folder / "go").unlink(missing_ok=True)
    tab.presses(900)
    tab.waits_for("painting")
    tab.until("sound.state === 'suspended'")
    stage.let_paint()
    tab.waits_for("picture")
    stage.show.change({"prompts": ["a golden spiral on purple"]})
    tab.page.click("#again")
    tab.page.evaluate("levels = 0")
    tab.hears()
    tab.presses(1500)
    check_sound(stage, tab)


def test_a_visit_from_the_button_to_the_picture_and_back(stage, tab, screen):
    screen.waits_for("idle" if stage.show.session.shown() else "empty")
    stage.show.change({"prompts": ["wait for it", "a blue butterfly"]})
    (stage.folder / "go").unlink(missing_ok=True)
    tab.reads("What shall your voice become?")
    tab.page.get_by_text("wait for it").click()
    tab.presses(900)
    tab.waits_for("painting")
    screen.waits_for("painting")
    for page in (tab, screen):
        page.until("document.querySelector('#rough:not([hidden]), #wall > canvas')?.width === 32")
        with Image.open(stage.folder / "rough.png") as rough:
            assert tuple(page.page.evaluate(FIRST_PIXEL)) == rough.getpixel((0, 0))
    stage.let_paint()
    tab.waits_for("picture")
    screen.waits_for("picture")
    id = (tab.page.locator("#picture").get_attribute("src") or "").removeprefix("/image/")
    screen.page.wait_for_selector(f"#wall img.on[src='/image/{id}']")
    tab.until("document.querySelector('#rough').hidden")  # the image is there
    assert tab.page.locator("#save").get_attribute("href") == f"/image/{id}"
    tab.page.get_by_text("Again").click()
    tab.waits_for("ready")
    assert tab.page.locator("#picture").get_attribute("src") is None  # nothing of one visitor is left for the next
    stage.show.change({"prompts": ["a golden spiral on purple"]})


def test_who_goes_away_leaves_the_page_to_the_next(stage, chromium):
    context = chromium.new_context(permissions=["microphone"], locale="en-GB")
    page = context.new_page()
    page.clock.install()
    tab = Tab(stage, page).open()
    tab.hears()
    id = tab.speaks()
    page.clock.fast_forward(29_000)
    tab.waits_for("picture")
    page.clock.fast_forward(2_000)
    tab.waits_for("ready")
    assert page.locator("#picture").get_attribute("src") is None and id not in page.content()
    context.close()


def test_a_tap_starts_and_another_one_stops(stage, tab):
    tab.presses(30)
    tab.waits_for("speaking")
    tab.reads("Tap to stop")
    tab.page.wait_for_timeout(700)  # of sound
    tab.presses(30)
    tab.waits_for("picture")


def test_keys_alone_do_it_all(stage, tab):
    keyboard = tab.page.keyboard
    keyboard.down("Space")
    tab.waits_for("speaking")
    tab.page.wait_for_timeout(700)  # of sound
    keyboard.up("Space")
    tab.waits_for("picture")
    assert tab.page.evaluate("document.activeElement.id") == "again"
    keyboard.press("Enter")
    tab.waits_for("ready")


def test_a_press_that_is_too_short_is_said_kindly(tab):
    """Two taps in one moment, however slow the machine is."""
    tab.page.evaluate("""() => {
      for (const name of ["keydown", "keyup", "keydown", "keyup"])
        dispatchEvent(new KeyboardEvent(name, {code: "Space", cancelable: true}));
    }""")
    tab.reads("That was very short")
    tab.waits_for("ready")


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("de-AT", "Halten und sprechen"),
        ("fr-FR", "Maintenez et parlez"),
        ("es-MX", "Mantén y habla"),
        ("ja", "Hold and"),
    ],
)
def test_the_language_of_the_browser_decides(stage, still_page, language, words):
    browser = still_page.context.new_cdp_session(still_page)
    agent = {"userAgent": still_page.evaluate("navigator.userAgent")}
    browser.send("Emulation.setUserAgentOverride", agent | {"acceptLanguage": language})
    tab = Tab(stage, still_page).open()
    tab.reads(words)
    assert tab.page.evaluate("document.documentElement.lang") == (language[:2] if language != "ja" else "en")
    browser.send("Emulation.setUserAgentOverride", agent | {"acceptLanguage": "en-GB"})
    browser.detach()


def test_every_language_has_every_text():
    source = (PAGES / "words.js").read_text(encoding="utf-8")
    blocks = re.findall(r"^  \w\w: \{(.*?)^  \},", source, flags=re.M | re.S)
    keys = [set(re.findall(r"\b(\w+): \"", block)) for block in blocks]
    assert len(keys) == 4 and all(key == keys[0] for key in keys)
    scripts = "".join((PAGES / name).read_text(encoding="utf-8") for name in ("visitor.js", "voice.js"))
    assert set(re.findall(r'say\("(\w+)"', scripts)) <= keys[0]


# --- what goes wrong --------------------------------------------------------------------------------------------------
def test_a_reload_while_speaking_is_said_and_the_recording_kept(stage, tab):
    tab.page.keyboard.down("Space")
    tab.waits_for("speaking")
    tab.page.wait_for_timeout(900)  # of sound
    tab.page.reload()
    tab.reads("Your recording was interrupted", timeout=5000)
    tab.waits_for("ready")
    assert any("interrupted; it is kept" in line for line in stage.said("warn"))


def test_a_recording_goes_on_when_the_network_comes_back(stage, tab):
    tab.page.keyboard.down("Space")
    tab.waits_for("speaking")
    tab.page.wait_for_timeout(500)  # of sound
    tab.page.context.set_offline(True)
    tab.page.wait_for_timeout(500)
    tab.page.keyboard.up("Space")
    tab.reads("The connection is lost")
    tab.page.context.set_offline(False)
    check_sound(stage, tab)


def test_a_microphone_that_falls_silent_is_noticed(stage, chromium):
    """Exact zeros are all that a browser gives of one that was removed, or put to sleep."""
    context = chromium.new_context(permissions=["microphone"], locale="en-GB")
    page = context.new_page()
    page.add_init_script("""
      const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
      navigator.mediaDevices.getUserMedia = async (wanted) => {
        window.wanted = wanted;
        const context = new AudioContext(), gain = new GainNode(context), end = context.createMediaStreamDestination();
        context.createMediaStreamSource(await real(wanted)).connect(gain).connect(end);
        window.mute = () => (gain.gain.value = 0);
        return end.stream;
      };""")
    tab = Tab(stage, page).open()
    tab.hears()
    assert page.evaluate("Object.values(wanted.audio)") == [False, False, False]
    page.wait_for_timeout(4100)  # in which a microphone may wake up
    page.keyboard.down("Space")
    tab.waits_for("speaking")
    page.evaluate("mute()")
    tab.reads("The microphone fell silent", timeout=2000 + 500)
    context.close()


def test_pages_go_on_when_the_server_was_started_again(tmp_path, chromium):
    context = chromium.new_context(permissions=["microphone"], locale="en-GB")
    with house(tmp_path, "--free_prompt") as stage:
        tabs = [Tab(stage, context.new_page()).open(path) for path in ("/", "/screen", "/gallery")]
        visitor, screen, gallery = tabs
        visitor.hears()
        id = visitor.speaks()
        port = stage.address.port
        visitor.page.get_by_text("Again").click()
        visitor.waits_for("ready")
        visitor.page.keyboard.down("Space")
        visitor.waits_for("speaking")
        visitor.page.wait_for_timeout(800)  # of sound
        folder = stage.show.session.folder
    visitor.reads("The connection is lost")
    assert list(tmp_path.glob(".temp_live_audio.*.wav")) or list(tmp_path.glob("temp_live_audio_*.wav"))
    with house(tmp_path, "--session", str(folder), port=port) as stage:
        visitor.page.keyboard.up("Space")
        visitor.reads("Your recording was interrupted", timeout=5000)
        screen.page.wait_for_selector(f"#wall img.on[src='/image/{id}']", timeout=5000)
        assert gallery.page.locator("figure").count() == 1
        visitor.page.keyboard.down("Space")
        visitor.waits_for("speaking", timeout=5000)
        visitor.page.wait_for_timeout(700)  # of sound
        visitor.page.keyboard.up("Space")
        visitor.waits_for("picture")
        gallery.until("document.querySelectorAll('figure').length === 2")
    context.close()


# --- other pages ------------------------------------------------------------------------------------------------------
def test_a_phone_takes_the_picture_home_until_it_is_removed(stage, guest, artist, chromium):
    guest.speak(voice(1.0))
    id = guest.waits_for_picture()
    wait_until(lambda: stage.show.session.find(id) is not None)
    context = chromium.new_context(viewport=PHONE, locale="de-DE", has_touch=True)
    tab = Tab(stage, context.new_page()).open(f"/p/{id}")
    streams = [request for request in tab.page.evaluate("performance.getEntriesByType('resource').map(e => e.name)")]
    assert not [name for name in streams if "/events/" in name]
    with tab.page.expect_download() as download:
        tab.page.get_by_text("Bild speichern").click()
    assert Path(download.value.path()).read_bytes() == guest.ask("GET", f"/image/{id}")[2]
    artist.post("/operator/picture", {"id": id, "action": "delete"})
    tab.page.evaluate("dispatchEvent(new Event('visibilitychange'))")
    tab.reads("Dieses Bild wurde entfernt.")
    assert tab.page.locator("img").count() == 0
    context.close()


def test_the_artist_changes_the_show_and_takes_a_picture_down(stage, tab, screen, chromium):
    id = tab.speaks()
    context = chromium.new_context(locale="en-GB")
    desk = Tab(stage, context.new_page()).open(f"/operator?key={stage.key.text}")
    assert desk.page.url.endswith("/operator")
    desk.page.get_by_label("Prompts, one a line").fill("calm waves\na red flower")
    desk.page.get_by_label("Steps").fill("7")
    desk.page.get_by_text("Apply").click()
    desk.reads("applied")
    assert stage.show.prompts == ["calm waves", "a red flower"] and stage.show.options.steps == 7
    desk.page.get_by_role("button", name="Pause").click()
    tab.page.get_by_text("Again").click()
    tab.reads("A short break")
    desk.page.get_by_role("button", name="Go on").click()
    tab.waits_for("ready")
    card = desk.page.locator(f"article[data-id='{id}']")
    card.get_by_text("Delete").click()
    desk.page.locator("#sure").get_by_text("Delete", exact=True).click()
    card.wait_for(state="detached")
    screen.until(f"!document.querySelector(\"#wall img[src='/image/{id}']\")")
    assert stage.show.session.find(id) is None
    stage.show.change({"prompts": ["a golden spiral on purple"]})
    context.close()


def test_without_https_another_device_is_told_why_it_has_no_microphone(stage, chromium):
    """Browsers call such a page no secure context."""
    context = chromium.new_context(locale="en-GB")
    page = context.new_page()
    page.add_init_script("Object.defineProperty(window, 'isSecureContext', {value: false})")
    tab = Tab(stage, page).open()
    tab.reads("This page has a microphone only over https")
    assert page.locator("#speak").is_disabled()
    context.close()


def test_over_https_a_device_that_knows_this_one_by_a_name_has_a_microphone(tmp_path, browser_there):
    with ThreadPoolExecutor(1) as other:  # as above
        other.submit(_speak_over_https, tmp_path).result()


def _speak_over_https(folder: Path) -> None:
    """Speak at a name that the certificate is for; only its key is trusted, for no other name."""
    name = "gallery.example"
    certificate, key = own_certificate(folder / "own", [name])
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    public = loaded.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    trusted = base64.b64encode(hashlib.sha256(public).digest()).decode()
    (folder / "voice.wav").write_bytes(wav_of(voice(VOICE_SECONDS)))
    flags = (f"--ignore-certificate-errors-spki-list={trusted}", f"--host-resolver-rules=MAP {name} 127.0.0.1")
    with (
        house(folder, "--certfile", str(certificate), "--keyfile", str(key), names=(name,)) as stage,
        browser.chromium(folder / "voice.wav", *flags) as chromium,
    ):
        page = chromium.new_context(viewport=TABLET, permissions=["microphone"], locale="en-GB").new_page()
        stage.url = f"https://{name}:{stage.address.port}"
        tab = Tab(stage, page).open()
        assert page.evaluate("isSecureContext")
        tab.hears()
        id = tab.speaks()
        assert stage.entry(id).voice and not tab.errors


def test_a_microphone_that_may_not_be_used_is_said(stage, chromium):
    context = chromium.new_context(locale="en-GB")
    page = context.new_page()
    page.add_init_script(
        "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('no', 'NotAllowedError'))"
    )
    tab = Tab(stage, page).open()
    tab.waits_for("ready")
    tab.presses(600)
    tab.reads("This page may not use the microphone")
    context.close()


@pytest.mark.parametrize("path", ["/", "/screen", "/gallery", "/p/{id}", "/operator", "/operator?key=x", "/nothing"])
def test_axe_finds_nothing_and_nothing_runs_over_the_edge(stage, guest, still_page, path):
    from axe_playwright_python.sync_playwright import Axe

    if not stage.show.session.shown():
        guest.speak(voice(1.0))
        guest.waits_for_picture()
        wait_until(lambda: stage.show.session.shown())
    still_page.context.clear_cookies()
    tab = Tab(stage, still_page)
    if path == "/operator":
        tab.open(f"/operator?key={stage.key.text}")
    tab.open(path.format(id=stage.show.session.shown()[0].id))
    for size, axe in ((WALL, Axe()), (PHONE, Axe("0"))):  # the second finds its program in the page
        tab.page.set_viewport_size(size)
        found = axe.run(tab.page)
        assert not found.response["violations"], found.generate_report()
        assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_phone_shows_a_choice_of_prompts_without_scrolling(stage, chromium):
    stage.show.change({"prompts": ["a golden spiral on purple", "a blue butterfly", "calm blue waves", "a red flower"]})
    context = chromium.new_context(viewport=PHONE, locale="en-GB")
    tab = Tab(stage, context.new_page()).open()
    tab.reads("a red flower")
    assert tab.page.evaluate("document.documentElement.scrollHeight <= innerHeight")
    stage.show.change({"prompts": ["a golden spiral on purple"]})
    context.close()


def test_axe_finds_nothing_in_the_states_of_a_visit(tab):
    from axe_playwright_python.sync_playwright import Axe

    tab.page.emulate_media(reduced_motion="reduce")
    tab.page.keyboard.down("Space")
    tab.waits_for("speaking")
    assert not (found := Axe().run(tab.page)).response["violations"], found.generate_report()
    tab.page.keyboard.up("Space")
    tab.waits_for("picture")
    assert not (found := Axe("0").run(tab.page)).response["violations"], found.generate_report()


def test_who_asks_for_less_motion_gets_none(stage, guest, still_page):
    guest.speak(voice(1.0))
    guest.waits_for_picture()
    for path in ("/", "/screen"):
        tab = Tab(stage, still_page).open(path)
        moving = tab.page.evaluate("""() => [...document.querySelectorAll("*")].filter((one) => {
          const style = getComputedStyle(one);
          return style.animationName !== "none" || parseFloat(style.transitionDuration) > 0;
        }).length""")
        assert moving == 0
