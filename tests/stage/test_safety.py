"""Attempts of a hostile page, visitor or network."""

import http.client
import re
import socket
import ssl
from pathlib import Path

import numpy as np
import pytest

import run_live_workflow
from stage import access, told
from stage.access import Limiter
from stage.artist import MOST_STEPS
from stage.certificates import names_in, own_certificate
from stage.network import Address, names_of
from stage.recordings import MOST_PIECE
from tests.programs import PATIENCE, run_main, wait_until
from tests.stage.house import PROMPT, house, voice, wav_of

STAGE = ["--stage", "--prompt", PROMPT]


# --- who may ask ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:8765", ""])
def test_a_server_answers_to_its_own_names_only(stage, host):
    """A page elsewhere whose name was made to point here (DNS rebinding) gets nothing."""
    assert stage.guest().get("/", Host=host)[0] in (400, 421)
    assert stage.guest().get("/", Host=f"LOCALHOST:{stage.address.port}")[0] == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", None, "https://127.0.0.1:{port}", "http://127.0.0.1"]
)
@pytest.mark.parametrize("path", ["/recordings", "/recordings/x/0", "/again", "/operator/change", "/operator/picture"])
def test_no_other_page_may_post(stage, guest, artist, origin, path):
    for one in (guest, artist):
        one.origin = origin and origin.format(port=stage.address.port)
        assert one.post(path)[0] == 403
    assert not stage.show.paused and not guest.state["recording"]


def test_every_answer_has_the_headers_that_browsers_act_upon(stage, guest):
    for path in ("/", "/screen", "/gallery", "/operator", "/p/unknown", "/assets/visitor.js", "/nothing"):
        _, headers, _ = guest.ask("GET", path)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert "microphone=(self)" in headers["permissions-policy"] and "server" not in headers


def test_pages_have_no_inline_script_and_name_no_other_host():
    pages = Path(run_live_workflow.__file__).parent / "stage" / "pages"
    for path in pages.iterdir():
        text = path.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert "://" not in text, path
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|javascript:|<style|\sstyle=", text), path


# --- the artist's key -------------------------------------------------------------------------------------------------
def test_the_key_opens_and_becomes_a_cookie_that_scripts_cannot_read(stage):
    one = stage.guest()
    assert one.get("/operator")[0] == 403
    status, headers, _ = one.ask("GET", f"/operator?key={stage.key.text}")
    assert status == 303 and headers["location"] == "/operator"
    assert "HttpOnly" in headers["set-cookie"] and "SameSite=strict" in headers["set-cookie"]
    assert stage.key.text not in headers["set-cookie"]
    assert one.get("/operator")[0] == 200


@pytest.mark.parametrize("path", ["/operator/microphones", "/operator/image/x", "/events/artist"])
def test_nothing_of_the_artist_is_given_without_the_key(stage, guest, path):
    guest.cookies["operator"] = "guessed"
    assert guest.get(path)[0] == 403
    for post in ("/operator/change", "/operator/picture"):
        assert guest.post(post, {"paused": True}) == (403, {"problem": "key"})
    assert not stage.show.paused


def test_the_key_cannot_be_tried_often(tmp_path):
    with house(tmp_path) as stage:
        one = stage.guest()
        assert [one.get(f"/operator?key={n}%C3%A9")[0] for n in range(8)].count(429) >= 2
        assert one.get(f"/operator?key={stage.key.text}")[0] == 303  # the artist is not locked out


def test_the_key_is_in_no_line_and_no_code(stage, artist, guest, capfd):
    guest.speak(voice(1.0))
    id = guest.waits_for_picture()
    stage.show.public = "http://192.0.2.1:8765"
    try:
        assert stage.key.text not in guest.get(f"/p/{id}/qr.svg")[1]
    finally:
        stage.show.public = ""
    artist.get(f"/operator?key={stage.key.text}")
    printed = capfd.readouterr()
    assert stage.key.text not in "\n".join([*stage.said("say"), *stage.said("warn"), printed.out, printed.err])


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0}, {"steps": MOST_STEPS + 1}, {"steps": "9"}, {"steps": True}, {"steps": None}, {"budget": 3},
        {"prompts": []}, {"prompts": "a"}, {"prompts": [" "]}, {"prompts": ["a\x00"]}, {"prompts": ["a"] * 3 + [5]},
        {"microphone": "no such"}, {"paused": 1}, {"outdir": "/tmp"}, {"steps": 5, "other": 1},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_are_not_allowed_change_nothing(stage, artist, settings):
    names = ("prompts", "free", "paused", "steps", "budget", "microphone")
    before = [told.artist(stage.show)[name] for name in names]
    assert artist.post("/operator/change", settings)[0] == 422
    assert [told.artist(stage.show)[name] for name in names] == before


# --- uploads ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 200),
        (b"<html>", 415),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", 415),
        (wav_of(voice(0.1))[:30], 415),
        (wav_of(voice(0.1), channels=2), 415),
        (wav_of(voice(0.1).astype(np.int32), width=4), 415),
        (wav_of(voice(0.1), rate=1000), 415),
        (wav_of(voice(0.1), rate=400_000), 415),
        (b"x" * (MOST_PIECE + 1), 413),
    ],
    ids=["nothing", "html", "header", "half", "stereo", "32 bit", "1 kHz", "400 kHz", "large"],
)
def test_only_small_wav_files_are_taken(stage, guest, body, status):
    recording = guest.begin()
    assert guest.piece(recording, 0, body)[0] == status
    assert guest.piece(recording, 0, wav_of(voice(0.5)), kind="text/html")[0] == 415
    assert guest.piece(recording, 0, wav_of(voice(0.5)))[0] == 200
    assert guest.piece(recording, 1, wav_of(voice(0.5), rate=48_000))[0] == 415  # not the rate of the first one
    guest.post(f"/recordings/{recording}/drop")


@pytest.mark.parametrize("content", ["[]", "", "{", "[" * 5000, '{"prompt": ["a"]}', '{"prompt": "' + "x" * 20_000])
def test_broken_requests_are_refused(stage, guest, content):
    status, _, _ = guest.ask("POST", "/recordings", content, Content_Type="application/json")
    assert 400 <= status < 500
    assert guest.ask("POST", "/recordings", "{}", Content_Type="text/plain")[0] == 415


def test_nobody_reaches_the_recording_of_another(stage, guest):
    recording = guest.begin()
    other = stage.guest()
    other.get("/")
    assert other.piece(recording, 0, wav_of(voice(0.5)))[0] == 410
    other.post(f"/recordings/{recording}/drop")
    assert guest.state["recording"] == recording
    guest.post(f"/recordings/{recording}/drop")


def test_one_address_may_not_begin_many_recordings(tmp_path):
    with house(tmp_path, starts=(0.001, 3)) as stage:
        guest = stage.guest()
        guest.get("/")
        assert [guest.post("/recordings")[0] for _ in range(5)] == [201, 201, 201, 429, 429]


def test_a_limit_is_for_each_address_and_recovers():
    limiter = Limiter(50.0, 2)
    assert [limiter.allows("a") for _ in range(3)] == [True, True, False]
    assert limiter.allows("b")
    wait_until(lambda: limiter.allows("a"))


def test_a_limiter_does_not_grow(monkeypatch):
    monkeypatch.setattr(access, "ADDRESSES", 4)
    limiter = Limiter(1.0, 1)
    for number in range(10):
        limiter.allows(str(number))
    assert len(limiter._buckets) == 4


def test_a_body_that_does_not_come_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(access, "BODY_SECONDS", 0.2)
    with house(tmp_path) as stage, socket.create_connection(("127.0.0.1", stage.address.port)) as slow:
        host = f"127.0.0.1:{stage.address.port}"
        head = f"POST /recordings HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n"
        slow.sendall((head + "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{").encode())
        slow.settimeout(PATIENCE)
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


def test_slow_connections_do_not_stop_the_show(stage, guest):
    """Twenty that send a byte now and then, and twenty that never read their events."""
    host = f"127.0.0.1:{stage.address.port}"
    slow = [socket.create_connection(("127.0.0.1", stage.address.port)) for _ in range(40)]
    try:
        for number, connection in enumerate(slow):
            connection.sendall(f"GET /events/screen HTTP/1.1\r\nHost: {host}\r\n".encode())
            if number % 2:
                connection.sendall(b"\r\n")
        for _ in range(3):
            for connection in slow[::2]:
                connection.sendall(b"X")
            guest.speak(voice(0.8))
            assert guest.waits_for_picture()
            guest.post("/again")
    finally:
        for connection in slow:
            connection.close()


@pytest.mark.parametrize(
    "path", ["/assets/..%2fapp.py", "/assets/visitor.html", "/assets/%00", "/p/..%2f..", "/image/."]
)
def test_no_file_is_given_but_those_of_pages_and_pictures(stage, guest, path):
    assert guest.get(path)[0] == 404


def test_ids_of_pictures_cannot_be_guessed(stage, guest):
    guest.speak(voice(1.0))
    id = guest.waits_for_picture()
    assert len(id) == 16 and guest.get(f"/p/{id[:-1]}")[0] == guest.get("/p/0001")[0] == 404


# --- what is deleted --------------------------------------------------------------------------------------------------
def test_what_is_deleted_is_gone_from_disk_and_from_every_page(tmp_path):
    with house(tmp_path) as stage:
        guest, artist = stage.guest(), stage.guest()
        guest.get("/")
        artist.get(f"/operator?key={stage.key.text}")
        guest.speak(voice(1.0, seed=7))
        id = guest.waits_for_picture()
        wait_until(lambda: stage.show.session.find(id) is not None and not stage.show.current)
        paths = [f"/{kind}/{id}" for kind in ("p", "image", "voice")]
        assert [guest.get(path)[0] for path in paths] == [200] * 3
        mark = voice(1.0, seed=7).tobytes()[-64:]
        with guest.events("visitor") as mine, guest.events("screen") as screen, guest.events("gallery") as gallery:
            for stream in (mine, screen, gallery):
                assert next(stream)[1] == "hello"
                next(stream)
            assert artist.post("/operator/picture", {"id": id, "action": "delete"}) == (200, {})
            assert next(mine)[2]["problem"] == "removed"
            assert next(screen)[2]["slides"] == []
            assert next(gallery)[1] == "changed"
        assert [guest.get(path)[0] for path in paths] == [404] * 3
        assert id not in guest.get("/gallery")[1]
        left = [path for path in tmp_path.rglob("*") if path.is_file() and mark in path.read_bytes()]
        assert not left, left
        assert artist.post("/operator/picture", {"id": id, "action": "delete"})[0] == 404


def test_what_is_hidden_is_on_no_page_but_that_of_the_artist(stage, guest, artist):
    guest.speak(voice(1.0))
    id = guest.waits_for_picture()
    wait_until(lambda: stage.show.session.find(id) is not None)
    artist.post("/operator/picture", {"id": id, "action": "hide"})
    assert guest.get(f"/p/{id}")[0] == guest.get(f"/image/{id}")[0] == 404 and id not in guest.get("/gallery")[1]
    assert artist.ask("GET", f"/operator/image/{id}")[0] == 200
    artist.post("/operator/picture", {"id": id, "action": "show"})
    assert guest.get(f"/p/{id}")[0] == 200


# --- the network ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stage_host", "0.0.0.0"], "--stage_host 0.0.0.0 serves the network: add --https"),
        (["--stage_host", "192.168.1.5"], "serves the network"),
        (["--https", "--insecure_http"], "--insecure_http is for a stage without https"),
        (["--keyfile", __file__], "--certfile and --keyfile belong together"),
        (["--https", "--certfile", __file__, "--keyfile", __file__], "leave one of them out"),
        (["--seconds", "3"], "--seconds is for the terminal"),
        (["--accent", "red"], "red is not a colour such as #e8b04a"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_wrong_command_line_is_one_line(tmp_path, words, message):
    done = run_main("run_live_workflow.py", *STAGE, *words, data=tmp_path)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_options_of_the_stage_need_it(tmp_path):
    done = run_main("run_live_workflow.py", "--prompt", "a", "--https", data=tmp_path)
    assert done.returncode == 2 and "--https has no effect without --stage" in done.stderr


@pytest.mark.parametrize("words", [[], ["--stage_host", "0.0.0.0", "--https"], ["--stage_host", "::1"]])
def test_what_is_safe_is_allowed(words):
    assert run_live_workflow.parse([*STAGE, *words]).stage


def test_names_of_a_server():
    local = Address("http", "127.0.0.1", 8765, names_of("127.0.0.1"))
    assert local.url == "http://127.0.0.1:8765" and local.public == ""
    assert set(local.hosts) == {"127.0.0.1:8765", "localhost:8765", "[::1]:8765"}
    everywhere = Address("https", "0.0.0.0", 443, names_of("0.0.0.0"))
    assert everywhere.url == "https://127.0.0.1:443" and socket.gethostname().lower() in everywhere.hosts
    assert "localhost:443" in everywhere.hosts and "127.0.0.1" not in everywhere.public


def test_a_certificate_is_kept_and_made_anew_for_other_names(tmp_path):
    names = ["192.0.2.7", "stage.local", "localhost", "[::1]"]
    certificate, key = own_certificate(tmp_path / "own", names)
    assert set(names_in(certificate)) == set(names)
    assert key.stat().st_mode & 0o077 == 0
    before = certificate.read_bytes()
    assert own_certificate(tmp_path / "own", names[:2]) == (certificate, key) and certificate.read_bytes() == before
    own_certificate(tmp_path / "own", ["other.local"])
    assert names_in(certificate) == ["other.local"]
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)


def test_https_is_served_with_a_certificate_of_its_own(tmp_path):
    certificate, key = own_certificate(tmp_path / "own", ["127.0.0.1", "localhost"])
    with house(tmp_path, "--certfile", str(certificate), "--keyfile", str(key)) as stage:
        trusting = ssl.create_default_context(cafile=str(certificate))
        connection = http.client.HTTPSConnection("127.0.0.1", stage.address.port, context=trusting, timeout=PATIENCE)
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.status == 200 and "Secure" in answer.headers["Set-Cookie"]
        connection.close()


def test_the_visitors_page_is_light(stage, guest):
    """All that a browser loads for it, without pictures."""
    _, _, page = guest.ask("GET", "/")
    weight, left, seen = len(page), re.findall(r'(?:src|href)="(/assets/[^"]+)"', page.decode()), set()
    left.append("/assets/recorder-worklet.js")
    while left:
        path = left.pop()
        if path not in seen:
            seen.add(path)
            _, _, body = guest.ask("GET", path)
            weight += len(body)
            left += [f"/assets/{name}" for name in re.findall(r'from "\./([^"]+)"', body.decode())]
    assert len(seen) > 5 and weight <= 60_000
