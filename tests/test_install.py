"""tools/install, with stand-ins for Python and pip that note what they are asked to do."""

import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import config

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has two builds of PyTorch to choose from")

# Makes a .venv whose Python is this script again. It has pip 26, and a package is installed where a file says so.
PYTHON = """#!/bin/sh
here=@FOLDER@
case "$*" in
"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
"-m pip --version" | "-c import pip"* | "-c import ensurepip"* | "-c import cv2"*) ;;
"-m pip install"*)
    echo "$*" >> $here/asked
    if [ -e $here/broken ]; then exit 1; fi
    echo 2.13.0 > $here/torch ;;
"-c import importlib"*) cat $here/torch ;;
"-"* ) exec @PYTHON@ "$@" ;;
esac
"""


class Machine:
    """A clone of the project on a machine that has nothing installed, and whose commands are stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clone = folder / "clone"
        (self.clone / "tools").mkdir(parents=True)
        shutil.copy(config.REPO_DIR / "tools" / "install", self.clone / "tools")
        (self.clone / "requirements.txt").write_text("numpy==2.4.6\ntorch==2.13.0\n")
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.add("python3", PYTHON.replace("@FOLDER@", str(folder)).replace("@PYTHON@", sys.executable))

    def add(self, command: str, script: str) -> None:
        (self.bin / command).write_text(script)
        (self.bin / command).chmod(0o755)

    def install(self, index: str, file: str = "requirements.txt") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{self.bin}:/usr/bin:/bin", "PYTHON": "python3", "TORCH_CPU_INDEX": index}
        return subprocess.run(
            ["tools/install", file], cwd=self.clone, env=environment, capture_output=True, text=True, timeout=300
        )

    def asked_of_pip(self) -> list[str]:
        """Return the command line of each run of pip."""
        asked = self.folder / "asked"
        return asked.read_text().splitlines() if asked.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has NVIDIA's driver")
    return Machine(tmp_path)


@pytest.fixture
def index() -> Iterator[str]:
    """A package index that answers."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)  # an answer all the same
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def silent_index() -> Iterator[str]:
    """A package index that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


NOWHERE = "http://127.0.0.1:9"  # nobody listens there


def test_a_machine_without_a_gpu_gets_the_cpu_build(machine, index):
    done = machine.install(index)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = machine.asked_of_pip()
    assert f"--index-url {index}" in first and first.endswith(" torch==2.13.0")
    assert second.endswith(" -r requirements.txt") and "--index-url" not in second
    assert "460 MB" in done.stdout and f"the build for CPUs, from {index}" in done.stdout
    assert (machine.clone / ".venv" / ".ready").exists() and not (machine.clone / ".venv" / ".ready-dev").exists()


def test_a_machine_with_a_gpu_gets_the_build_with_cuda(machine, index):
    machine.add("nvidia-smi", "#!/bin/sh\n")
    done = machine.install(index, "requirements-dev.txt")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [asked.rpartition(" ")[2] for asked in machine.asked_of_pip()] == ["requirements-dev.txt"]
    assert "3.5 GB" in done.stdout and "an NVIDIA driver was found" in done.stdout
    assert (machine.clone / ".venv" / ".ready").exists() and (machine.clone / ".venv" / ".ready-dev").exists()


def test_what_pipelines_need_is_installed_by_itself(machine, index):
    done = machine.install(index, "requirements-diffusers.txt")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "490 MB" in done.stdout
    assert [path.name for path in sorted((machine.clone / ".venv").glob(".ready*"))] == [".ready", ".ready-diffusers"]


@pytest.mark.parametrize("kind", ["unreachable", pytest.param("silent", marks=pytest.mark.slow)])
def test_without_an_answer_pypi_is_asked(machine, silent_index, kind):
    done = machine.install(NOWHERE if kind == "unreachable" else silent_index)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [asked.rpartition(" ")[2] for asked in machine.asked_of_pip()] == ["requirements.txt"]
    assert "does not answer" in done.stdout and "3.2 GB" in done.stdout


def test_the_same_command_continues_after_a_failure(machine, index):
    (machine.folder / "broken").touch()
    done = machine.install(index)
    assert done.returncode == 1 and not (machine.clone / ".venv" / ".ready").exists()
    assert f"{index} did not provide version 2.13.0" in done.stdout
    assert done.stderr == (
        "could not install all that requirements.txt lists: pip says why above; the same command continues\n"
    )
    (machine.folder / "broken").unlink()
    assert machine.install(index).returncode == 0
    assert (machine.clone / ".venv" / ".ready").exists()


def test_a_python_that_is_too_old_is_named(machine):
    machine.add("python3", "#!/bin/sh\n[ $1 = --version ] && echo Python 3.8.1\nexit 1\n")
    done = machine.install(NOWHERE)
    assert done.returncode == 1
    assert done.stderr == "Python 3.10 or newer is needed, and this is Python 3.8.1: make PYTHON=python3.12\n"
