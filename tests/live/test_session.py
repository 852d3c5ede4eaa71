"""The session folder of a run, and the card."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

import config
from audio.features import extract, overview
from audio.plots import draw_heat_map
from audio.qualities import FLOOR_DB
from live import card
from live.card import CHART_HEIGHT, CHART_TOP, IMAGE, LEFT, PROMPT_HEIGHT, PROMPT_TOP, save_card
from live.session import Session

VOICE = config.EXAMPLES_DIR / "voice_en.wav"
PROMPTS = ("a <b>red</b> & \"blue\" 'flower'", "x" * 500, "calm waves " * 80, "", "красный цветок 花")


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.full((256, 256, 3), (200, 30, 90), np.uint8)).save(path)
    return path


def test_the_page_shows_the_added_files_and_nothing_else(tmp_path, image):
    session = Session(tmp_path / "sessions")
    latent = tmp_path / "latent.pt"
    for number, prompt in enumerate(PROMPTS):
        latent.write_text(str(number))
        session.add(prompt, image, latent, VOICE if number % 2 else None, image if number == 0 else None)
    page = session.page.read_text(encoding="utf-8")
    assert page.count("<figure>") == len(PROMPTS) and page.count("<audio") == 2 and page.count(">card</a>") == 1
    assert "&lt;b&gt;red&lt;/b&gt; &amp; &quot;blue&quot; &#x27;flower&#x27;" in page and "<b>" not in page
    assert "<script" not in page and "://" not in page
    for name in re.findall(r'(?:src|href)="([^"#]+)"', page):
        assert (session.page.parent / name).is_file() and "/" not in name
    assert [(session.page.parent / f"{n:04d}.pt").read_text() for n in range(1, 6)] == list("01234")


def test_the_newest_image_comes_first_and_a_click_fills_the_window_with_it(tmp_path, image):
    session = Session(tmp_path / "sessions", "Voices <of> a night")
    for prompt in ("first", "second"):
        session.add(prompt, image, image, None, None)
    page = session.page.read_text(encoding="utf-8")
    assert page.index("second") < page.index("first")
    assert '<a href="#0002"><img src="0002.png" alt="second"' in page
    assert '<a class="whole" id="0002" href="#_" title="close"><img src="0002.png" alt="second"' in page
    assert "<h1>Voices &lt;of&gt; a night</h1>" in page


def test_the_page_names_a_recording_that_was_a_file(tmp_path, image):
    session = Session(tmp_path)
    session.add("waves", image, image, VOICE, None)
    assert "<small>" not in session.page.read_text()
    session.add("waves", image, image, VOICE, None, name="ann & <b>.ogg")
    assert "waves<br><small>ann &amp; &lt;b&gt;.ogg</small>" in session.page.read_text()
    assert [entry.recording for entry in Session.resume(session.folder).all()] == ["ann & <b>.ogg", ""]


def test_the_page_says_what_is_seen_of_a_voice(tmp_path, image):
    session = Session(tmp_path)
    session.add("waves", image, image, VOICE, None)
    assert "<details>" not in session.page.read_text()
    session.add("waves", image, image, VOICE, None, places={"pitch": 83.4, "motion": 12.0, "rise": 55.0})
    page = session.page.read_text()
    assert "<details><summary>even (12 of 100) and high (83)</summary><svg" in page and page.count("<circle") == 3
    resumed = Session.resume(session.folder)
    assert [entry.places for entry in resumed.all()] == [{"pitch": 83.4, "motion": 12.0, "rise": 55.0}, {}]


@pytest.mark.parametrize("places", [[], "high", {"pitch": "<b>"}, {"pitch": [9]}, {"pitch": None}])
def test_places_that_are_none_are_refused(places, tmp_path, image):
    session = Session(tmp_path)
    session.add("waves", image, image, VOICE, None)
    listed = session.folder / "session.json"
    content = json.loads(listed.read_text())
    content["entries"][0]["places"] = places
    listed.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is broken"):
        Session.resume(session.folder)


def test_places_from_another_version_are_left_out(tmp_path, image):
    session = Session(tmp_path)
    session.add("waves", image, image, VOICE, None)
    listed = session.folder / "session.json"
    content = json.loads(listed.read_text())
    content["entries"][0]["places"] = {"<b>": 9.0, "rise": 1e9, "onset": float("nan"), "motion": 3}
    listed.write_text(json.dumps(content))
    (entry,) = Session.resume(session.folder).all()
    assert entry.places == {"motion": 3.0}
    del content["entries"][0]["places"]  # from before there were any
    listed.write_text(json.dumps(content))
    assert Session.resume(session.folder).all()[0].places == {}


def test_an_interrupted_session_goes_on(tmp_path, image):
    session = Session(tmp_path, "A night")
    first = session.add("waves", image, image, VOICE, None)
    (session.folder / "0002.png").write_text("left by a run that was killed")
    again = Session.resume(session.folder)
    assert again.title == "A night" and again.find(first.id) == first
    second = again.add("spiral", image, image, None, None)
    assert second.image == "0003.png" and [entry.prompt for entry in again.shown()] == ["spiral", "waves"]
    assert again.page.read_text(encoding="utf-8").count("<figure>") == 2


def test_only_a_folder_of_a_session_goes_on(tmp_path, image):
    with pytest.raises(OSError, match="holds no session.json"):
        Session.resume(tmp_path)
    session = Session(tmp_path)
    session.add("waves", image, image, None, None)
    path = session.folder / "session.json"
    for broken in ("", "[]", path.read_text().replace('"0001.png"', '"../0001.png"')):
        path.write_text(broken)
        with pytest.raises(ValueError, match="is broken"):
            Session.resume(session.folder)


def test_a_removed_image_is_gone_with_its_voice_its_latents_and_its_first_copy(tmp_path, image):
    session = Session(tmp_path / "sessions")
    other = tmp_path / "other.txt"
    other.write_text("a file that has nothing to do with it")
    voice = session.add("waves", image, image, VOICE, None)
    session.change(voice, sources=[*voice.sources, str(other)])  # as a list from elsewhere might say
    kept = session.add("spiral", VOICE, image, None, None)
    session.remove(voice)
    assert not image.exists() and VOICE.exists() and other.exists()
    names = {path.name for path in session.folder.iterdir()}
    assert names == {*kept.files, "index.html", "session.json"}
    assert "waves" not in session.page.read_text() + (session.folder / "session.json").read_text()
    assert session.find(voice.id) is None


def test_a_hidden_image_stays_on_disk_and_leaves_the_page(tmp_path, image):
    session = Session(tmp_path)
    entry = session.add("waves", image, image, None, None)
    session.change(entry, hidden=True)
    assert not session.shown() and session.all() == [entry]
    assert "waves" not in session.page.read_text() and (session.folder / entry.image).is_file()


def test_a_recording_may_have_any_suffix(tmp_path, image):
    voice = tmp_path / "voice.png"
    voice.write_bytes(VOICE.read_bytes())
    session = Session(tmp_path / "sessions")
    session.add("-", image, image, voice, None)
    assert (session.page.parent / "0001.png").read_bytes() == image.read_bytes()
    assert (session.page.parent / "0001_voice_original.png").read_bytes() == voice.read_bytes()


def test_what_no_browser_plays_is_converted_for_the_page(tmp_path, image):
    samples, rate = soundfile.read(VOICE)
    kinds = {"aiff": "PCM_24", "caf": "PCM_16", "w64": "PCM_16", "wav": "IMA_ADPCM", "flac": "PCM_16"}
    session = Session(tmp_path / "sessions")
    for kind, subtype in kinds.items():
        soundfile.write(tmp_path / f"voice.{kind}", np.stack([samples, samples / 2], 1), rate, subtype)
        entry = session.add("-", image, image, tmp_path / f"voice.{kind}", None)
        original = entry.original or entry.voice
        assert (session.folder / original).read_bytes() == (tmp_path / f"voice.{kind}").read_bytes()
        assert (entry.original == "") == (kind == "flac") and f'src="{entry.voice}"' in session.page.read_text()
        if entry.original:
            played = soundfile.info(session.folder / entry.voice)
            assert (played.format, played.subtype, played.samplerate, played.channels) == ("WAV", "PCM_16", rate, 2)
            heard, _ = soundfile.read(session.folder / entry.voice)
            assert np.abs(heard[: len(samples), 0] - samples).mean() < (0.01 if kind == "wav" else 1e-4)  # ADPCM
    session.remove(session.all()[1])
    assert not list(session.folder.glob("0004*"))


def test_a_recording_that_cannot_be_decoded_is_copied_as_it_is(tmp_path, image):
    path = tmp_path / f"voice.{'x' * 240}"  # too long with another name before it
    path.write_text("no sound")
    session = Session(tmp_path / "sessions")
    entry = session.add("-", image, image, path, None)
    assert (entry.voice, entry.original) == ("0001_voice", "")
    assert (session.folder / entry.voice).read_text() == "no sound"


def test_two_sessions_of_one_second_have_two_folders(tmp_path, image):
    sessions = [Session(tmp_path / "sessions") for _ in range(2)]
    for session in sessions:
        session.add("-", image, image, None, None)
    assert sessions[0].page != sessions[1].page


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_card_shows_voice_image_and_prompt_side_by_side(tmp_path, image, prompt):
    path = tmp_path / "cards" / "card.png"
    save_card(VOICE, image, prompt, path, config.RECIPE, places={"pitch": 91.0, "rise": 20.0})
    with Image.open(path) as card:
        pixels = np.asarray(card)
        assert card.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert pixels.shape == (1080, 1920, 3)
    shown = pixels[80 : 80 + IMAGE, 1920 - 80 - IMAGE : 1920 - 80]
    assert (shown == (200, 30, 90)).all()
    left = pixels[:, : 80 + LEFT]
    background = pixels[0, 0]
    for row in (slice(80, 200), slice(240, 480)):  # waveform, spectrogram
        assert (left[row, 80:] != background).any(axis=2).any(axis=0).mean() > 0.9
    assert (left[PROMPT_TOP : PROMPT_TOP + PROMPT_HEIGHT] != background).any() == bool(prompt)
    assert (left[CHART_TOP : CHART_TOP + CHART_HEIGHT] != background).any()
    assert (left[480:PROMPT_TOP] == background).all() and (left[-80 + 8 :] == background).all()
    gap = pixels[:, 80 + LEFT : 1920 - 80 - IMAGE]
    assert (gap == background).all() and (pixels[:, -80:] == background).all()  # nothing runs over


@pytest.mark.parametrize("trim", [True, False])
def test_a_card_shows_what_is_spoken(trim, tmp_path, image):
    voice, rate = soundfile.read(VOICE, dtype="float32")
    room = np.random.default_rng(0).normal(0, 3e-4, len(voice) + 6 * rate).astype(np.float32)
    room[3 * rate : 3 * rate + len(voice)] += voice
    soundfile.write(tmp_path / "room.wav", room, rate)
    save_card(tmp_path / "room.wav", image, "", tmp_path / "card.png", config.RECIPE, trim=trim)
    with Image.open(tmp_path / "card.png") as card:
        pixels = np.asarray(card).astype(int)[:, 80 : 80 + LEFT]
    loud = (pixels[80:200] != pixels[0, 0]).any(axis=2).sum(axis=0) > 10  # of the waveform, more than a line
    assert (loud[:40].any() and loud[-40:].any()) == trim
    found = extract(tmp_path / "room.wav", trim=trim)
    wanted = Image.new("RGB", (1920, 1080))
    _, decibels = overview(tmp_path / "room.wav", LEFT, (found.begin, found.end))
    draw_heat_map(wanted, decibels, (80, 240, LEFT, 240), -FLOOR_DB, 0.0)
    np.testing.assert_array_equal(pixels[240:480], np.asarray(wanted)[240:480, 80 : 80 + LEFT])


def test_a_wide_image_keeps_its_sides_on_a_card(tmp_path):
    wide, path = tmp_path / "wide.png", tmp_path / "card.png"
    Image.new("RGB", (512, 256), (200, 30, 90)).save(wide)
    save_card(VOICE, wide, "waves", path, config.RECIPE)
    shown = (np.asarray(Image.open(path))[:, 1920 - 80 - IMAGE :] == (200, 30, 90)).all(axis=2)
    assert shown.any(axis=1).sum() == IMAGE // 2 and shown.any(axis=0).sum() == IMAGE
    assert shown[1080 // 2 - IMAGE // 4 : 1080 // 2 + IMAGE // 4, :IMAGE].all()


@pytest.fixture
def fonts(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder of fonts, of which none is proposed by the system."""
    monkeypatch.setattr(card, "_proposed", lambda characters: "")
    for cached in (card.choose_font, card.load_font):
        cached.cache_clear()
    yield tmp_path
    for cached in (card.choose_font, card.load_font):
        cached.cache_clear()


def write_font(path: Path, characters: str) -> None:
    """Write a font in which each of some characters is a square as wide as it is high, and missing ones are narrow."""
    builder_of = pytest.importorskip("fontTools.fontBuilder").FontBuilder
    pen_of = pytest.importorskip("fontTools.pens.ttGlyphPen").TTGlyphPen
    names = {ord(character): f"u{ord(character):x}" for character in characters}
    sizes = {".notdef": 300, **dict.fromkeys(names.values(), 900)}

    def square(side: int) -> Any:
        pen = pen_of(None)
        for step, corner in enumerate(((0, 0), (0, side), (side, side), (side, 0))):
            (pen.lineTo if step else pen.moveTo)(corner)
        pen.closePath()
        return pen.glyph()

    font = builder_of(1000, isTTF=True)
    font.setupGlyphOrder(list(sizes))
    font.setupCharacterMap(names)
    font.setupGlyf({name: square(side) for name, side in sizes.items()})
    font.setupHorizontalMetrics({name: (1000, 0) for name in sizes})
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupPost()
    font.save(path)


def test_a_card_takes_the_first_font_that_has_all_characters(fonts, monkeypatch):
    names = [str(fonts / name) for name in ("latin.ttf", "some.ttf", "all.ttf")]
    for name, characters in zip(names, ("abn", "ab金n", "ab金色n"), strict=True):
        write_font(Path(name), characters)
    monkeypatch.setattr(card, "FONTS", ("not installed.ttf", *names))
    assert card.choose_font("a b") == (names[0], "")
    assert card.choose_font("b 金") == (names[1], "")
    assert card.choose_font("金色 a") == (names[2], "")
    assert card.choose_font("金色 a 花") == (names[2], "花")
    monkeypatch.setattr(card, "_proposed", lambda characters: names[2])
    monkeypatch.setattr(card, "FONTS", names[:1])
    card.choose_font.cache_clear()
    assert card.choose_font("色") == (names[2], "")


def test_wide_characters_do_not_run_over_the_image(fonts, monkeypatch):
    write_font(fonts / "wide.ttf", "金n")
    monkeypatch.setattr(card, "FONTS", (str(fonts / "wide.ttf"),))
    font, lines, lacking = card.fit_text("金" * 40)
    assert not lacking and max(map(font.getlength, lines.split("\n"))) <= LEFT and lines.count("金") == 40
    monkeypatch.undo()
    font, lines, _ = card.fit_text("W" * 500)
    assert max(map(font.getlength, lines.split("\n"))) <= LEFT


@pytest.mark.parametrize(
    ("characters", "package"), [("花", "fonts-noto-cjk"), ("नी", "fonts-noto-core"), ("a☃", "fonts-symbola")]
)
def test_the_package_of_a_font_that_lacks_is_told(characters, package):
    assert card.package_for(characters) == package
