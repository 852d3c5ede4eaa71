"""A stage that runs in this process, with small scripts in place of the encoder and the painter, and its visitors."""

import http.client
import io
import json
import threading
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

import config
import run_live_workflow
from live.pipeline import Pipeline
from live.run_files import claim_run_files
from live.session import Entry
from stage import app, told
from stage.access import Key
from stage.display import StageDisplay
from stage.network import Address, names_of
from stage.server import Server, listen, server_of
from stage.show import Show
from tests.display import RecordingDisplay
from tests.programs import PATIENCE, wait_until

PLACES, DESCRIPTION = {"pitch": 91.0, "motion": 12.0, "rise": 50.0}, "high (91 of 100) and even (12)"
PROMPT = "a golden spiral on purple"
RATE = 44_100
BEGIN = """
import json, os, pathlib, shutil, sys, time
def send(**content):
    print(json.dumps(content), flush=True)
"""
ENCODER = f"""{BEGIN}
send(ready=True)
for line in sys.stdin:
    request = json.loads(line)
    pathlib.Path(request["output_file"]).write_bytes(pathlib.Path(request["input_file"]).read_bytes()[-4000:])
    send(latent=request["output_file"], said=[], warned=[])
"""
# A prompt with "wait" is painted once there is a file "go"; one with "die" once kills the painter, "broken" fails.
PAINTER = f"""{BEGIN}
send(ready=True)
for number, line in enumerate(sys.stdin):
    request = json.loads(line)
    prompt, here = request["prompt"], pathlib.Path(__file__).parent
    for step in range(3):
        shutil.copy(here / "rough.png", here / "preview.png")
        send(progress=[step + 1, 3])
        send(preview=str(here / "preview.png"))
    while "wait" in prompt and not (here / "go").exists():
        time.sleep(0.01)
    if "die" in prompt and not (here / "died").exists():
        (here / "died").touch()
        os._exit(9)
    if "broken" in prompt:
        send(error="no colours", said=[], warned=[])
        continue
    image = here / f"image_{{os.getpid()}}_{{number}}.png"
    shutil.copy(here / "image.png", image)
    with image.open("ab") as file:
        file.write(pathlib.Path(request["init_latents"]).read_bytes()[-64:])  # tells which voice it is of
    send(pictures=[str(image)], voices=[{PLACES}], said=[], warned=[])
"""


class House:
    """A running stage."""

    def __init__(self, folder: Path, show: Show, address: Address, key: Key, server: Server) -> None:
        self.folder, self.show, self.address, self.key, self.server = folder, show, address, key, server
        self.url = address.url

    def guest(self) -> "Guest":
        return Guest(self)

    def said(self, kind: str) -> list[str]:
        """Return what the terminal was told."""
        terminal = self.show.display.terminal
        assert isinstance(terminal, RecordingDisplay)
        return terminal.lines(kind)

    def entry(self, id: str) -> Entry:
        """Return a picture of the session, once it is there."""
        wait_until(lambda: self.show.session.find(id) is not None)
        entry = self.show.session.find(id)
        assert entry
        return entry

    def voice_of(self, id: str) -> Path:
        """Return the kept recording of a picture, once it is there."""
        entry = self.entry(id)  # pages show a picture before it is kept, and the first makes the session's folder
        return self.show.session.folder / entry.voice

    def let_paint(self) -> None:
        """Let the painter finish images whose prompt says "wait"."""
        (self.folder / "go").touch()


class Guest:
    """A browser with its cookies, that speaks plain HTTP."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.cookies: dict[str, str] = {}
        self.origin: str | None = house.url

    def ask(
        self, method: str, path: str, body: bytes | str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers (names in lower case) and body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.house.address.port, timeout=PATIENCE)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if method == "POST" and self.origin is not None:
            headers.setdefault("Origin", self.origin)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            self._keep_cookie(answer)
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def _keep_cookie(self, answer: http.client.HTTPResponse) -> None:
        for cookie in answer.headers.get_all("Set-Cookie") or []:
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        status, _, body = self.ask("GET", path, **headers)
        return status, body.decode(errors="replace")

    def post(self, path: str, content: object = None, **headers: str) -> tuple[int, dict[str, Any]]:
        body = json.dumps({} if content is None else content)
        status, _, answer = self.ask("POST", path, body, **({"Content_Type": "application/json"} | headers))
        return status, _json(answer)

    def piece(
        self, recording: str, number: int, body: bytes, last: bool = False, kind: str = "audio/wav"
    ) -> tuple[int, dict[str, Any]]:
        path = f"/recordings/{recording}/{number}{'?last=1' if last else ''}"
        status, _, answer = self.ask("POST", path, body, Content_Type=kind)
        return status, _json(answer)

    def begin(self, prompt: str = "") -> str:
        status, answer = self.post("/recordings", {"prompt": prompt})
        assert status == 201, answer
        return answer["recording"]

    def speak(self, samples: np.ndarray, prompt: str = "", pieces: int = 3) -> dict[str, Any]:
        """Record samples [T] int16; return the verdict."""
        recording = self.begin(prompt)
        parts = np.array_split(samples, pieces)
        for number, part in enumerate(parts):
            status, answer = self.piece(recording, number, wav_of(part), last=number == pieces - 1)
            assert status == 200, answer
        return answer

    @property
    def state(self) -> dict[str, Any]:
        """The state that the visitor's page would be told now."""
        show = self.house.show
        return told.visitor(show, show.visitor(self.cookies["visitor"]))

    def waits_for_picture(self) -> str:
        """Return the id of the picture."""
        wait_until(lambda: self.state["picture"] or self.state["problem"])
        assert self.state["picture"], self.state
        return str(self.state["picture"])

    @contextmanager
    def events(self, topic: str, **headers: str) -> Iterator[Iterator[tuple[str, str, Any]]]:
        """Open an event stream: an iterator over id, name and content of each event."""
        connection = http.client.HTTPConnection("127.0.0.1", self.house.address.port, timeout=PATIENCE)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        connection.request("GET", f"/events/{topic}", headers=headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        self._keep_cookie(answer)
        try:
            yield _events(answer)
        finally:
            connection.close()
            answer.close()


def _json(body: bytes) -> dict[str, Any]:
    try:
        return json.loads(body)
    except ValueError:
        return {"text": body.decode(errors="replace")}


def _events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, str, Any]]:
    fields: dict[str, str] = {}
    while line := answer.readline().decode():
        name, _, value = line.rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        elif fields:
            yield fields.get("id", ""), fields.get("event", ""), json.loads(fields.get("data") or "null")
            fields = {}


def wav_of(samples: np.ndarray, rate: int = RATE, channels: int = 1, width: int = 2) -> bytes:
    """Return samples [T] int16 as a wav file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def voice(seconds: float = 1.0, seed: int = 0, level: float = 0.2) -> np.ndarray:
    """Return noise [T] int16 in place of a voice."""
    noise = np.random.default_rng(seed).normal(0, level / 3, round(seconds * RATE))
    return np.clip(noise * 32768, -32000, 32000).astype(np.int16)


@contextmanager
def house(
    folder: Path,
    *words: str,
    port: int = 0,
    starts: tuple[float, float] = (1e3, 1e3),
    names: tuple[str, ...] = (),
) -> Iterator[House]:
    """Run a stage in `folder` for the length of a block.

    Args:
        starts: limit of recordings, a second and at once; more than the program has, as all guests have one address.
        names: more names of this machine.
    """
    _furnish(folder)
    patches: dict[str, Any] = {
        "TEMP_AUDIO_WAV": folder / "temp_live_audio.wav",
        "LIVE_LATENT_PT": folder / "live_latent.pt",
        "ROOT_DIR": folder,
        "REPO_DIR": folder,
        "SESSIONS_DIR": folder / "sessions",
        "OUTPUT_DIR": folder / "outputs",
    }
    with (
        mock.patch.multiple(config, **patches),
        mock.patch.object(app, "STARTS", starts),
        claim_run_files() as files,
    ):
        options = run_live_workflow.parse(["--stage", "--prompt", PROMPT, *words])
        options.card = False  # it takes a second, and tests/live/test_session.py makes some
        display = StageDisplay(RecordingDisplay())
        listener = listen("127.0.0.1", port)
        with Pipeline(options, display, files) as pipeline:
            show, key = Show(options, display, pipeline), Key()
            scheme = "https" if options.certfile else "http"
            address = Address(scheme, "127.0.0.1", listener.getsockname()[1], (*names_of("127.0.0.1"), *names))
            server = server_of(app.build(show, key, address), show.hub, options)
            show.on_failure = server.end
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
            pipeline.start()
            show.start()
            thread.start()
            try:
                wait_until(lambda: server.started)
                yield House(folder, show, address, key, server)
            finally:
                server.end()
                thread.join(PATIENCE)
                show.close()
                listener.close()


def _furnish(folder: Path) -> None:
    (folder / "process_live_audio.py").write_text(ENCODER)
    (folder / "txt2img.py").write_text(PAINTER)
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / "rough.png")
    ramp = np.linspace(0, 255, 256)
    image = np.stack([np.add.outer(ramp, ramp) / 2, np.outer(ramp, ramp) / 255, 255 - np.outer(ramp, ramp) / 300], 2)
    Image.fromarray(image.astype(np.uint8)).save(folder / "image.png")
