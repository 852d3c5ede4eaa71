"""Visitors: what they send, what becomes of it, and what they are told."""

import errno
import os
import re
import shutil
import subprocess
import time
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audio import recorder
from audio.recorder import Microphone, MicrophoneError
from stage import show as shows
from stage import told
from stage.recordings import AFTER, BEFORE, Upload
from tests.programs import wait_until
from tests.stage.house import DESCRIPTION, PLACES, PROMPT, RATE, Guest, house, voice, wav_of

PRESS = BEFORE + AFTER  # seconds that a page records beside the press


def test_a_voice_becomes_a_picture_of_its_own(stage, guest):
    spoken = voice(1.5)
    assert guest.speak(spoken) == {"problem": "", "advice": ""}
    id = guest.waits_for_picture()
    status, headers, image = guest.ask("GET", f"/image/{id}")
    assert status == 200 and headers["content-type"] == "image/png"
    assert image.endswith(spoken.tobytes()[-64:])  # the painter adds the end of the voice
    with wave.open(str(stage.voice_of(id))) as file:
        assert file.getframerate() == RATE and file.getnchannels() == 1
        assert file.readframes(file.getnframes()) == spoken.tobytes()
    assert stage.entry(id).prompt == PROMPT and guest.ask("GET", f"/image/{id}")[2] == image


def test_pages_say_what_is_seen_of_a_voice(stage, guest):
    guest.speak(voice(1.0))
    id = guest.waits_for_picture()
    assert stage.entry(id).places == PLACES
    picture, gallery = (guest.ask("GET", address)[2].decode() for address in (f"/p/{id}", "/gallery"))
    (figure,) = (part for part in gallery.split("<figure") if f'data-id="{id}"' in part)
    assert DESCRIPTION in picture and DESCRIPTION in figure and figure.count("<circle") == len(PLACES)
    assert told.screen(stage.show)["slides"][0]["voice"] == DESCRIPTION


def test_each_visitor_gets_their_own_picture(stage):
    guests = [stage.guest() for _ in range(5)]
    voices = [voice(0.8, seed=number) for number in range(len(guests))]
    for one in guests:
        one.get("/")
    with ThreadPoolExecutor(len(guests)) as crowd:
        assert list(crowd.map(Guest.speak, guests, voices)) == [{"problem": "", "advice": ""}] * len(guests)
    ids = [one.waits_for_picture() for one in guests]
    assert len({*ids}) == len(guests)
    for one, id, spoken in zip(guests, ids, voices, strict=True):
        assert one.ask("GET", f"/image/{id}")[2].endswith(spoken.tobytes()[-64:])


@pytest.mark.parametrize(
    ("samples", "verdict"),
    [
        (voice(PRESS + 0.1), {"problem": "short", "advice": ""}),
        (voice(1.0, level=0.001), {"problem": "silent", "advice": ""}),
        (np.zeros(RATE, np.int16), {"problem": "silent", "advice": ""}),
        (voice(1.0, level=0.02), {"problem": "", "advice": "quiet"}),
        (np.where(voice(1.0) > 0, 32767, -32768).astype(np.int16), {"problem": "", "advice": "clipped"}),
    ],
    ids=["short", "silent", "zeros", "quiet", "clipped"],
)
def test_a_recording_is_judged_at_once(stage, guest, samples, verdict):
    assert guest.speak(samples) == verdict
    if verdict["problem"]:
        assert guest.state["state"] == "ready" and guest.state["problem"] == verdict["problem"]
        assert not guest.state["picture"]
    else:
        guest.waits_for_picture()


def test_pieces_may_come_twice_but_not_in_another_order(stage, guest):
    recording, parts = guest.begin(), np.array_split(voice(1.2), 3)
    assert guest.piece(recording, 0, wav_of(parts[0])) == (200, {"next": 1})
    assert guest.piece(recording, 2, wav_of(parts[2])) == (409, {"problem": "piece missing"})
    assert guest.piece(recording, 1, wav_of(parts[1])) == (200, {"next": 2})
    assert guest.piece(recording, 1, wav_of(parts[1])) == (200, {"next": 2})
    verdict = (200, {"problem": "", "advice": ""})
    assert guest.piece(recording, 2, wav_of(parts[2]), last=True) == verdict
    assert guest.piece(recording, 2, wav_of(parts[2]), last=True) == verdict  # its answer was lost
    id = guest.waits_for_picture()
    with wave.open(str(stage.voice_of(id))) as file:
        assert file.getnframes() == round(1.2 * RATE)


def test_a_recording_is_on_disk_as_it_comes(stage, guest):
    recording = guest.begin()
    guest.piece(recording, 0, wav_of(voice(0.5)))
    (path,) = stage.folder.glob(".temp_live_audio.*.wav")
    with wave.open(str(path)) as file:
        assert file.getnframes() == round(0.5 * RATE)
    guest.post(f"/recordings/{recording}/drop", {"problem": "interrupted"})
    assert not path.exists()


def test_what_was_said_before_a_reload_is_kept(stage, guest):
    recording = guest.begin()
    guest.piece(recording, 0, wav_of(voice(2.0)))
    with guest.events("visitor") as events:
        you = next(content for _, name, content in events if name == "you")
        assert you["state"] == "speaking" and you["recording"] == recording
        guest.post(f"/recordings/{recording}/drop", {"problem": "interrupted"})
        you = next(content for _, name, content in events if name == "you")
    assert you["state"] == "ready" and you["problem"] == "interrupted"
    (line,) = [line for line in stage.said("warn") if line.startswith("a recording was interrupted")]
    kept = Path(line.partition(": ")[2])
    with wave.open(str(kept)) as file:
        assert file.getnframes() == 2 * RATE
    kept.unlink()
    assert guest.piece(recording, 1, wav_of(voice(0.5)))[0] == 410


def test_a_page_that_is_gone_gives_its_place_free(stage, guest, monkeypatch):
    guest.begin()
    monkeypatch.setattr(shows, "STALE", 0.0)
    other = stage.guest()
    other.get("/")
    other.begin()
    assert guest.state["problem"] == "interrupted" and not guest.state["recording"]


def test_a_new_recording_takes_the_place_of_an_unfinished_one(stage, guest):
    first = guest.begin()
    second = guest.begin()
    assert guest.piece(first, 0, wav_of(voice(0.5)))[0] == 410
    assert guest.piece(second, 0, wav_of(voice(0.5)))[0] == 200


def test_a_recording_that_is_too_long_is_cut(tmp_path):
    upload = Upload(tmp_path / "a.wav", 1.0, lambda bars: None)
    for number in range(3):
        upload.add(number, wav_of(voice(1.0)))
    upload.end()
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.getnframes() == round((1.0 + PRESS) * RATE)


def test_prompts_are_those_of_the_artist_or_words_of_ones_own(stage, guest):
    for prompt, status in (("a blue butterfly", 201), ("x" * 200, 201), ("x" * 201, 422), ("a\x07b", 422), (5, 422)):
        assert guest.post("/recordings", {"prompt": prompt})[0] == status, prompt
    stage.show.change({"free_prompt": False})
    try:
        assert guest.post("/recordings", {"prompt": "a blue butterfly"}) == (422, {"problem": "prompt"})
        assert guest.post("/recordings", {"prompt": PROMPT})[0] == 201
    finally:
        stage.show.change({"free_prompt": True})


def test_a_full_disk_is_said_and_what_was_said_before_is_kept(stage, guest, monkeypatch):
    recording = guest.begin()
    guest.piece(recording, 0, wav_of(voice(1.0)))

    def full(self: wave.Wave_write, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    piece = wav_of(voice(1.0))
    with monkeypatch.context() as patch:
        patch.setattr(wave.Wave_write, "writeframes", full)
        assert guest.piece(recording, 1, piece) == (507, {"problem": "disk"})
    assert guest.state["problem"] == "disk" and guest.state["state"] == "ready"
    kept = [line for line in stage.said("warn") if line.startswith("a recording was interrupted")]
    with wave.open(kept[-1].partition(": ")[2]) as file:
        assert file.getnframes() == RATE
    assert guest.speak(voice(1.0)) == {"problem": "", "advice": ""}
    guest.waits_for_picture()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_is_really_full_keeps_what_it_can_and_is_good_again_when_there_is_room(small_disk):
    with house(small_disk, "--free_prompt") as stage:
        guest = stage.guest()
        guest.get("/")
        (small_disk / "filler").write_bytes(bytes(600_000))
        recording, sent = guest.begin(), 0
        while (answer := guest.piece(recording, sent, wav_of(voice(0.5, seed=sent))))[0] == 200:
            sent += 1
        assert sent and answer == (507, {"problem": "disk"})
        assert guest.state["problem"] == "disk" and guest.state["state"] == "ready"
        full, kept = stage.said("warn")
        assert "no space left" in full
        with wave.open(kept.removeprefix("a recording was interrupted; it is kept: ")) as file:
            there = file.readframes(file.getnframes())
        assert there[: 2 * RATE // 2 * sent] == b"".join(voice(0.5, seed=n).tobytes() for n in range(sent))
        (small_disk / "filler").unlink()
        assert guest.speak(voice(1.0)) == {"problem": "", "advice": ""}
        guest.waits_for_picture()


@pytest.mark.parametrize(
    "pause, expected", [(3600.0, ["preview", "progress"]), (0.0, ["progress", "preview", "progress"])]
)
def test_progress_comes_with_a_preview_that_comes_soon(stage, guest, monkeypatch, pause, expected):
    """Each change costs a page a drawing, and the painter its processor."""
    seen: list[str] = []
    publish = stage.show.hub.publish

    def note(topic: str, name: str, content: object, passing: bool = False) -> None:
        if topic.startswith("visitor") and name in ("progress", "preview"):
            seen.append(name)
        publish(topic, name, content, passing)

    monkeypatch.setattr(shows, "PROGRESS_PAUSE", pause)
    monkeypatch.setattr(stage.show, "_told_done", time.monotonic())
    monkeypatch.setattr(stage.show.hub, "publish", note)
    guest.speak(voice(1.0))
    guest.waits_for_picture()
    assert seen == expected * 3  # the painter makes three steps


def test_a_painter_that_dies_is_started_again(stage, guest):
    guest.speak(voice(1.0), "please die once")
    assert guest.waits_for_picture()
    assert any("killed" in line or "status 9" in line for line in stage.said("warn"))


def test_a_recording_that_gives_no_picture_is_kept_and_said(stage, guest):
    guest.speak(voice(1.0), "broken")
    wait_until(lambda: guest.state["problem"])
    assert guest.state["problem"] == "failed" and guest.state["state"] == "ready"
    kept = re.search(r"the recording is kept: (\S+)", "\n".join(stage.said("warn")))
    assert kept and Path(kept[1]).is_file()
    guest.speak(voice(1.0))
    guest.waits_for_picture()


class Machine:
    """A microphone of this machine that gives a second of sound."""

    def __init__(self) -> None:
        self.found, self.level, self.fault = 0, 0.2, ""

    def find(self, *_: object) -> Microphone:
        self.found += 1
        return Microphone(0, "test", RATE, 1)

    def record(self, path: Path, microphone: Microphone, stop: Any, started: Any, on_block: Any) -> recorder.Recording:
        if self.fault == "none comes":
            raise MicrophoneError("no sound comes from the microphone 'test'")
        started()
        block = voice(1.0, level=self.level)
        path.write_bytes(wav_of(block))
        on_block(block.astype(np.float32) / 32768, 0)
        wait_until(stop)
        return recorder.Recording(path, 1.0, RATE, 1, 0, 0.0, self.fault)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    one = Machine()
    monkeypatch.setattr(recorder, "find_microphone", one.find)
    monkeypatch.setattr(recorder, "record", one.record)
    monkeypatch.setattr(recorder, "forget_devices", lambda: None)
    return one


def test_the_microphone_of_the_machine_is_kept_until_a_recording_fails(tmp_path, machine):
    """Finding it opens a stream, for which a visitor would have to wait at each press."""
    with house(tmp_path, "--mic", "test") as stage:
        guest = stage.guest()
        guest.get("/")

        def press() -> str:
            answer = guest.piece(guest.begin(), 0, b"", last=True)[1]["problem"]
            if not answer:
                guest.waits_for_picture()
            return answer

        wait_until(lambda: machine.found == 1)  # before the first press
        assert press() == press() == "" and machine.found == 1
        machine.level = 0.0
        assert press() == "silent" and press() == "silent" and machine.found == 2
        machine.level, machine.fault = 0.2, "the microphone was unplugged"
        assert press() == "" and machine.found == 3
        machine.fault = "none comes"
        assert press() == "microphone" and machine.found == 4
        machine.fault = ""
        assert press() == press() == "" and machine.found == 5


def test_the_queue_is_bounded_and_places_are_told(tmp_path):
    with house(tmp_path, "--free_prompt") as stage:
        guests = [stage.guest() for _ in range(shows.MOST_WAITING + 2)]
        for one in guests:
            one.get("/")
        guests[0].speak(voice(0.8), "wait")
        wait_until(lambda: guests[0].state["state"] == "painting")
        for one in guests[1:-1]:
            one.speak(voice(0.8), "wait", pieces=1)
        assert guests[-1].post("/recordings", {"prompt": ""}) == (503, {"problem": "full"})
        assert guests[3].state["state"] == "waiting" and guests[3].state["place"] == 4
        assert guests[3].post("/recordings", {"prompt": ""}) == (409, {"problem": "busy"})
        stage.let_paint()
        assert len({one.waits_for_picture() for one in guests[:-1]}) == len(guests) - 1


def test_a_picture_is_forgotten_by_the_page_and_not_by_the_gallery(stage, guest):
    guest.speak(voice(1.0))
    id = guest.waits_for_picture()
    guest.post("/again")
    assert guest.state["state"] == "ready" and not guest.state["picture"]
    wait_until(lambda: id in guest.get("/gallery")[1])
    assert guest.get(f"/p/{id}")[0] == 200


def test_without_audio_no_recording_stays(tmp_path):
    with house(tmp_path, "--discard_audio") as stage:
        guest = stage.guest()
        guest.get("/")
        guest.speak(voice(1.0))
        id = guest.waits_for_picture()
        wait_until(lambda: stage.show.session.find(id) is not None)
        recording = guest.begin()
        guest.piece(recording, 0, wav_of(voice(1.0)))
        guest.post(f"/recordings/{recording}/drop", {"problem": "interrupted"})
        wait_until(lambda: not list(tmp_path.rglob("*.wav")))
        assert not guest.state["kept"] and guest.get(f"/voice/{id}")[0] == 404
        assert "<audio" not in guest.get("/gallery")[1]


def test_a_server_that_is_started_again_keeps_recordings_and_goes_on_with_the_session(tmp_path):
    with house(tmp_path, "--free_prompt") as stage:
        guest = stage.guest()
        guest.get("/")
        guest.speak(voice(1.0))
        first = guest.waits_for_picture()
        wait_until(lambda: stage.show.session.find(first) is not None)
        guest.post("/again")
        guest.speak(voice(1.0), "wait")
        wait_until(lambda: guest.state["state"] == "painting")
        folder, port = stage.show.session.folder, stage.address.port
        assert stage.show.pipeline.abandon()
    assert list(tmp_path.glob("temp_live_audio_*.wav"))
    with house(tmp_path, "--session", str(folder), port=port) as stage:
        guest.house = stage
        assert guest.get(f"/p/{first}")[0] == 200  # the code that was scanned still leads there
        with guest.events("visitor") as events:
            assert next(content for _, name, content in events if name == "you")["state"] == "ready"
        guest.speak(voice(1.0))
        wait_until(lambda: len(stage.show.session.all()) == 2)
        assert stage.show.session.folder == folder
