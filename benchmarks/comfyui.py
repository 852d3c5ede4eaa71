"""Try the nodes in ComfyUI itself, with tiny random models: python -m benchmarks.comfyui --comfyui FOLDER --python PY

Starts ComfyUI from FOLDER on the CPU, with Python PY in which its requirements and those of comfyui/ are installed, and
with all that it reads and writes in a temporary folder. Then it samples from models of three kinds by both ways, and
runs the example workflows through ComfyUI's API.
"""

import argparse
import contextlib
import json
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import cli
import config

VOICES = ("voice_fr.wav", "voice_en.wav")
PATIENCE = 1200.0  # seconds
PACK = config.REPO_DIR / "comfyui"


def main() -> None:
    """Run the command line."""
    parser = cli.CommandParser(__doc__)
    add = parser.add_argument
    add("--comfyui", type=cli.existing_path, required=True, metavar="FOLDER", help="ComfyUI, with its main.py")
    add("--python", type=cli.existing_path, required=True, metavar="PY", help="the Python that runs it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, served(args, Path(name)) as comfyui:
        print(f"ComfyUI {comfyui.get('/system_stats')['system']['comfyui_version']}, {comfyui.import_line()}")
        report(comfyui)
        for workflow in sorted(PACK.glob("example_workflows/api/*.json")):
            examples(comfyui, workflow)


class ComfyUI:
    """A running ComfyUI."""

    def __init__(self, port: int, folder: Path, process: subprocess.Popen) -> None:
        """Remember where it is."""
        self._address, self.folder, self._process = f"http://127.0.0.1:{port}", folder, process

    def get(self, path: str, data: Any = None) -> Any:
        """Send a request, with JSON if `data` is given; return the JSON that is answered."""
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(self._address + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{path}: {error.read().decode()}") from error

    def wait(self) -> None:
        """Wait until it answers."""
        for _ in range(int(PATIENCE)):
            with contextlib.suppress(urllib.error.URLError):
                self.get("/system_stats")
                return
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI has ended:\n{self.log()[-2000:]}")
            time.sleep(1)
        raise RuntimeError("ComfyUI does not answer")

    def log(self) -> str:
        """Return what it has printed."""
        return (self.folder / "log").read_text(errors="replace")

    def import_line(self) -> str:
        """Return what it prints about the time that our pack took when it started."""
        found = re.search(r"([\d.]+ seconds)[^:\n]*: \S*voicetoimg$", self.log(), re.MULTILINE)
        return f"the pack took {found[1]} of its start" if found else "which has not loaded the pack"

    def run(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """Run a workflow in API form; return its entry in the history."""
        number = self.get("/prompt", {"prompt": prompt})["prompt_id"]
        for _ in range(int(PATIENCE)):
            if entry := self.get(f"/history/{number}").get(number):
                if entry["status"]["status_str"] != "success":
                    raise RuntimeError(json.dumps(entry["status"], indent=1))
                return entry
            time.sleep(1)
        raise RuntimeError("the workflow does not end")


@contextlib.contextmanager
def served(args: argparse.Namespace, folder: Path) -> Iterator[ComfyUI]:
    """Start ComfyUI with the pack, tiny models and two voices."""
    for name in ("custom_nodes", "input", "output", "user", "models"):
        (folder / name).mkdir()
    (folder / "custom_nodes" / "voicetoimg").symlink_to(PACK)
    shutil.copy(Path(__file__).with_name("comfyui_tiny.py"), folder / "custom_nodes")
    for voice in VOICES:
        shutil.copy(config.EXAMPLES_DIR / voice, folder / "input")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [args.python.absolute(), "main.py", "--cpu", "--base-directory", folder, "--port", port]
    command += ["--database-url", f"sqlite:///{folder}/user/comfyui.db"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(list(map(str, command)), cwd=args.comfyui, stdout=log, stderr=log)
        comfyui = ComfyUI(port, folder, process)
        try:
            comfyui.wait()
            yield comfyui
        finally:
            process.terminate()
            process.wait()


def report(comfyui: ComfyUI) -> None:
    """Print the figures of all models, samplers and steps."""
    prompt = {str(number): node("LoadAudio", audio=voice) for number, voice in enumerate(VOICES)}
    prompt["2"] = node("TinyTrial", voice=["0", 0], other=["1", 0])
    found = json.loads(comfyui.run(prompt)["outputs"]["2"]["report"][0])
    print("model  sampler           steps  network sees x_T  same voice  both ways  two voices correlate")
    for row in found["rows"]:
        same, both = ("same bits" if row[name] and row["finite"] else "DIFFER" for name in ("same voice", "both ways"))
        print(
            f"{row['model']:5}  {row['sampler']:16}  {row['steps']:5}  {row['network sees']:16.6f}  {same:10}  {both:9}"
            f"  {row['two voices']:20.3f}"
        )
    seconds, first = found["seconds"], found["first seconds"]
    print(f"Voice Noise, 5 s of sound, 16×128×128: {seconds:.3f} s; the first time {first:.2f} s")
    print(f"loading the pack: {found['loading']:.3f} s")


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """Return a node of a workflow in API form."""
    return {"class_type": kind, "inputs": inputs}


def examples(comfyui: ComfyUI, path: Path) -> None:
    """Run an example workflow: two voices, one of them twice, the second time with other seeds."""
    pictures = {}
    for name, voice, seed in (("voice", VOICES[0], 0), ("again", VOICES[0], 1), ("other", VOICES[1], 0)):
        prompt = json.loads(path.read_text(encoding="utf-8"))
        for one in prompt.values():
            if one["class_type"] == "CheckpointLoaderSimple":
                one["class_type"] = "TinyCheckpoint"
            inputs = one["inputs"]
            values = {"audio": voice, "seed": seed, "later_seed": seed}
            inputs |= {key: value for key, value in values.items() if not isinstance(inputs.get(key, []), list)}
        saved = next(iter(comfyui.run(prompt)["outputs"].values()))["images"][0]
        with Image.open(comfyui.folder / "output" / saved["subfolder"] / saved["filename"]) as image:
            assert voice in image.info["prompt"], "the file does not say which voice it is of"
            holds = ", ".join(map(str, image.info))
            print(f"{path.stem}, {voice}: {image.width}×{image.height} pixels, the file's text: {holds}")
            pictures[name] = np.asarray(image.convert("RGB"), np.float64)
    same = np.array_equal(pictures["voice"], pictures["again"])
    correlation = np.corrcoef(pictures["voice"].ravel(), pictures["other"].ravel())[0, 1]
    print(
        f"{path.stem}: same voice {'same bytes' if same else 'DIFFERS'}; two voices correlate {correlation:.3f}",
        flush=True,
    )


if __name__ == "__main__":
    cli.run(main)
