"""The scripts as a user starts them: in this process, where a process of its own would prove nothing, or in one."""

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

import cli
import config
from tests import forked

PATIENCE = 300.0  # seconds in which even a busy machine does what a test waits for

TINY = ("--H", 64, "--W", 64)  # a fifth of the work of 256×256

Finished = subprocess.CompletedProcess[str]


def run_script(script: str, *arguments: object, data: Path, text: str | None = None) -> Finished:
    """Run a script in a process of its own, with `data` as the current and the data folder, and `text` as its input."""
    words = [str(config.REPO_DIR / script), *map(str, arguments)]
    return forked.run(words, os.environ | {"VOICETOIMG_DATA_DIR": str(data)}, data, PATIENCE, text)


def run_main(script: str, *arguments: object, data: Path) -> Finished:
    """Run a script as `run_script` does, but in this process: faster, and the built-in model is loaded only once."""
    main = importlib.import_module(script.removesuffix(".py")).main
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with (
        data_folder(data),
        mock.patch.object(sys, "argv", [script]),
        mock.patch.object(sys.modules["__main__"], "__spec__", None),  # for cli.program
        warnings.catch_warnings(),
        _signals_kept(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.run(lambda: main([str(argument) for argument in arguments]))
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    said, warned = (stream.buffer.getvalue().decode() for stream in (out, err))
    return subprocess.CompletedProcess([script, *map(str, arguments)], status, said, warned)


@contextlib.contextmanager
def data_folder(folder: Path) -> Iterator[None]:
    """Let `folder` be the current folder, and the one that `config` names for output."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        with mock.patch.dict(os.environ, VOICETOIMG_DATA_DIR=str(folder)):
            importlib.reload(config)
            yield
    finally:
        os.chdir(before)
        importlib.reload(config)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Put the handlers of signals back that `cli.run` replaces."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGTERM)):
            signal.signal(number, handlers[number])


def paint(folder: Path, *arguments: object) -> list[np.ndarray]:
    """Return the images [H, W, 3] that `txt2img.main` makes in `folder`, in the order of their names."""
    import txt2img  # here, because not all tests that use this module need the room of painting

    standard = ["--outdir", folder, "--prompt", "a golden spiral on purple", "--steps", 2]
    assert txt2img.main([str(argument) for argument in [*standard, *arguments]]) == 0
    return [np.asarray(Image.open(path)) for path in sorted((folder / "samples").iterdir())]


def is_running(process: int) -> bool:
    """Tell whether a process still runs; a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for something to be so."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
