"""Downloads from a hub that runs here: what is said, what is fetched and what is refused."""

import hashlib
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

import config
from painting.options import parse_options
from painting.pipelines import hub

pytestmark = pytest.mark.slow  # huggingface_hub takes a second
SHA = "0123456789abcdef0123456789abcdef01234567"
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "PNDMScheduler"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "safety_checker": [None, None],
}
WEIGHTS = save({"weight": torch.zeros(64)})
FILES: dict[str, bytes] = {
    "model_index.json": json.dumps(INDEX).encode(),
    "scheduler/scheduler_config.json": b'{"_class_name": "PNDMScheduler"}',
    "unet/config.json": b'{"_class_name": "UNet2DConditionModel"}',
    "vae/config.json": b'{"_class_name": "AutoencoderKL"}',
    "unet/diffusion_pytorch_model.safetensors": WEIGHTS + bytes(0),
    "unet/diffusion_pytorch_model.fp16.safetensors": WEIGHTS,
    "unet/diffusion_pytorch_model.bin": b"pickle",
    "vae/diffusion_pytorch_model.safetensors": WEIGHTS,
    "vae/diffusion_pytorch_model.fp16.safetensors": WEIGHTS,
    "whole.safetensors": WEIGHTS,
    "unet/evil.py": b"print()",
    "README.md": b"# A model",
}


class Hub(http.server.BaseHTTPRequestHandler):
    """The few addresses of the hub that a download asks for."""

    files: dict[str, bytes] = FILES
    asked: list[str] = []

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/someone/tiny/tree/"):
            tree = [{"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in self.files.items()]  # fmt: skip
            self._send(json.dumps(tree).encode(), {"Content-Type": "application/json"})
        elif path.startswith("/api/models/someone/tiny"):
            siblings = [{"rfilename": name, "size": len(content)} for name, content in self.files.items()]
            info = {"id": "someone/tiny", "sha": SHA, "siblings": siblings, "cardData": {"license": "openrail++"}}
            self._send(json.dumps(info).encode(), {"Content-Type": "application/json"})
        elif (name := path.removeprefix(f"/someone/tiny/resolve/{SHA}/")) in self.files:
            if self.command == "GET":
                self.asked.append(name)
            content = self.files[name]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            self._send(content, {"ETag": etag, "X-Repo-Commit": SHA})
        else:
            self.send_error(404)

    def _send(self, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path, monkeypatch) -> Iterator[type[Hub]]:
    """A hub, and a folder of models of one's own."""
    from huggingface_hub import constants

    Hub.files, Hub.asked = dict(FILES), []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(config, "MODELS_DIR", tmp_path / "models")
    yield Hub
    server.shutdown()
    server.server_close()


def fetched(folder: Path) -> set[str]:
    inside = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in inside if not path.parts[0].startswith(".")}


def test_a_model_is_fetched_once_after_its_size_and_licence_are_said(served, tmp_path, capsys):
    assert hub.fetch("someone/tiny") == "tiny"
    said = capsys.readouterr().out
    assert "someone/tiny: 1 MB to download, licence: openrail++" in said
    assert fetched(tmp_path / "models" / "tiny") == {
        "model_index.json", "scheduler/scheduler_config.json", "unet/config.json", "vae/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.fp16.safetensors",
    }  # fmt: skip
    served.asked.clear()
    args = parse_options(None, ["--hub", "someone/tiny"])
    assert args.model == "tiny" and args.pipeline.variant == "fp16" and not served.asked


def test_full_weights_are_fetched_where_a_part_has_no_half_ones(served, tmp_path):
    del served.files["vae/diffusion_pytorch_model.fp16.safetensors"]
    hub.fetch("someone/tiny")
    weights = {name for name in fetched(tmp_path / "models" / "tiny") if name.endswith(".safetensors")}
    assert weights == {f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")}


def test_what_cannot_be_used_is_not_fetched(served, tmp_path):
    served.files["model_index.json"] = json.dumps({**INDEX, "_class_name": "StableVideoDiffusionPipeline"}).encode()
    with pytest.raises(ValueError, match="that this program does not know"):
        hub.fetch("someone/tiny")
    shutil.rmtree(tmp_path / "models")
    served.files["model_index.json"] = b"[]"
    with pytest.raises(ValueError, match="should hold a json object"):
        hub.fetch("someone/tiny")
    shutil.rmtree(tmp_path / "models")
    served.files["model_index.json"] = FILES["model_index.json"]
    for name in list(served.files):
        if name.startswith("unet/") and name.endswith(".safetensors"):
            del served.files[name]
    with pytest.raises(ValueError, match="has its part unet as a pickle only"):
        hub.fetch("someone/tiny")
    del served.files["model_index.json"]
    with pytest.raises(ValueError, match="is not saved as diffusers saves models"):
        hub.fetch("someone/tiny")
    with pytest.raises(ValueError, match="there is no such model"):
        hub.fetch("someone/else")
    assert served.asked.count("unet/diffusion_pytorch_model.bin") == 0
    assert not list((tmp_path / "models").rglob("*.safetensors"))


def test_without_a_network_one_line_says_so(served, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="someone/tiny cannot be downloaded: HF_HUB_OFFLINE forbids it"):
        hub.fetch("someone/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="the hub cannot be reached"):
        hub.fetch("someone/tiny")


@pytest.mark.parametrize("name", ["tiny", "../x/y", "a/b/c", "a/../b", "/etc/passwd"])
def test_names_that_are_none_are_refused(name, capsys):
    with pytest.raises(SystemExit):
        parse_options(None, ["--hub", name])
    assert "is no name of a model on the hub" in capsys.readouterr().err


@pytest.mark.parametrize("beside", [["--ckpt", __file__], ["--config", __file__]])
def test_another_model_beside_it_is_refused_before_anything_is_fetched(served, beside, capsys):
    with pytest.raises(SystemExit):
        parse_options(None, ["--hub", "someone/tiny", *beside])
    assert f"--hub names the model already: leave out {beside[0]}" in capsys.readouterr().err
    assert not served.asked


def test_a_known_name_says_where_it_is(capsys):
    with pytest.raises(SystemExit):
        parse_options(None, ["--model", "sd-turbo"])
    assert "--hub stabilityai/sd-turbo downloads it" in capsys.readouterr().err
