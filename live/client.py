"""A script in standby (standby.py), as seen by the program that started it."""

import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

from standby import PROGRESS

ENDS = 0.5  # seconds that a script has to clean up, before it is killed
LAST_WORDS = 2.0  # seconds that a busy machine may take to read them, where a process of the script's lives on


class ClientError(RuntimeError):
    """A script gave no picture or no latents; the message says why, in one line."""


class ClientDied(ClientError):
    """The script has ended, or was ended because it hung. It can be started again."""

    def __init__(self, message: str, had_worked: bool) -> None:
        super().__init__(message)
        self.had_worked = had_worked  # it was ready once, so that it may be worth another try


@dataclass(frozen=True)
class Answer:
    content: dict[str, Any]
    said: list[str]  # what the script would have printed
    warned: list[str]  # what it would have written to standard error


@dataclass
class _Process:
    """One life of a script."""

    popen: "subprocess.Popen[bytes]"
    lines: "queue.SimpleQueue[bytes | None]" = field(default_factory=queue.SimpleQueue)  # None: there is no more
    words: list[str] = field(default_factory=list)  # on standard error since the last answer, without progress
    heard_of: float = field(default_factory=time.monotonic)  # when it last showed a sign of life
    ready: bool = False
    errors_read: threading.Event = field(default_factory=threading.Event)  # all of them: it has ended


class ScriptClient:
    """Starts a script with `--standby`, asks it, and sees to its end. One thread may ask, another may `check`."""

    def __init__(
        self, script: Path, arguments: Sequence[str], progress: Callable[[str], None], patience: float
    ) -> None:
        """Nothing is started yet.

        Args:
            arguments: for the script.
            progress: is shown its progress bar as it moves, and "" when it has gone.
            patience: seconds without any sign of life, after which a script hangs.
        """
        self.name = script.name
        self._command = [sys.executable, str(script), *arguments, "--standby"]
        self._progress = progress
        self._patience = patience
        self._process: _Process | None = None
        self._asked = False
        self._showing = threading.Lock()  # of progress, so that none comes after the "" at its end

    def start(self) -> _Process:
        """Start the script, if it does not run; return at once."""
        if self._process:
            return self._process
        popen = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONIOENCODING": "utf-8:surrogateescape"},
            # so that Ctrl-C reaches this process alone, which then ends the script; on Windows the second
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self._process = process = _Process(popen)
        threading.Thread(target=self._read_answers, args=(process,), daemon=True).start()
        threading.Thread(target=self._read_errors, args=(process,), daemon=True).start()
        return process

    def check(self) -> None:
        """Raises ClientDied if the script ended before it was ready."""
        process = self._process
        if process and not process.ready and process.popen.poll() is not None:
            raise self._obituary(process)

    def await_ready(self) -> None:
        """Start the script if it does not run, and wait until it has loaded everything.

        Raises:
            ClientDied: it ended, or hangs.
        """
        process = self.start()
        if not process.ready:
            self._wait(process)
            process.ready = True

    def ask(self, **request: Any) -> Answer:
        """Do what the options in `request` ask for; start the script if it does not run.

        Raises:
            ClientError: the script says why it cannot.
            ClientDied: it ended, or hangs.
        """
        process = self.start()
        process.heard_of = time.monotonic()
        assert process.popen.stdin
        with suppress(OSError):  # it has ended: which the wait for its answer will tell
            process.popen.stdin.write(json.dumps(request).encode() + b"\n")
            process.popen.stdin.flush()
        self.await_ready()
        self._asked = True
        try:
            content = self._wait(process)
        finally:
            with self._showing:
                self._asked = False
                self._progress("")
        process.words = []
        said, warned = content.pop("said", []), content.pop("warned", [])
        if error := content.get("error"):
            raise ClientError(f"{self.name}: {error.removeprefix(self.name + ': ')}")
        return Answer(content, said, warned)

    def _wait(self, process: _Process) -> dict[str, Any]:
        """The next JSON object from the script."""
        while True:
            try:
                line = process.lines.get(timeout=0.2)  # a time, so that Ctrl-C is noticed on Windows
            except queue.Empty:
                if time.monotonic() - process.heard_of > self._patience:
                    end([self])
                    message = f"{self.name} showed no sign of life for {self._patience:g} s"
                    raise ClientDied(message, process.ready) from None
                continue
            if line is None:
                raise self._obituary(process)
            with suppress(ValueError):
                content = json.loads(line)
                if isinstance(content, dict):
                    return content
            process.words.append(line.decode(errors="replace"))

    def _obituary(self, process: _Process) -> ClientDied:
        with suppress(subprocess.TimeoutExpired):
            process.popen.wait(ENDS)
        end([self])
        process.errors_read.wait(LAST_WORDS)
        status = process.popen.returncode
        how = f"was killed by signal {-status}" if status < 0 else f"failed with status {status}"
        if status == 0:
            how = "ended before its work was done"
        *earlier, last = process.words or [""]
        if os.environ.get("VOICETOIMG_TRACEBACK"):
            print(*earlier, sep="\n", file=sys.stderr)
        last = last.removeprefix(f"{self.name}: ")
        return ClientDied(f"{self.name} {how}{f': {last}' if last else ''}", process.ready)

    def _read_answers(self, process: _Process) -> None:
        for line in process.popen.stdout or ():
            process.heard_of = time.monotonic()
            process.lines.put(line)
        process.lines.put(None)

    def _read_errors(self, process: _Process) -> None:
        assert isinstance(process.popen.stderr, BufferedReader)
        for text in _pieces(process.popen.stderr):
            process.heard_of = time.monotonic()
            if PROGRESS.search(text):
                with self._showing:
                    if self._asked:
                        self._progress(text)
            elif text.strip():
                process.words.append(text)
        process.errors_read.set()


def _pieces(stream: BufferedReader) -> Iterable[str]:
    """What comes, cut at line ends and carriage returns; a progress bar, which ends in neither, as it comes."""
    left = b""
    while came := stream.read1(65536):
        *pieces, left = re.split(rb"[\r\n]", left + came)
        for piece in pieces:
            yield piece.decode(errors="surrogateescape")
        if PROGRESS.search(text := left.decode(errors="surrogateescape")):
            yield text
    yield left.decode(errors="surrogateescape")


def end(workers: Iterable[ScriptClient]) -> None:
    """Ask scripts to end, and see to it; all within one time."""
    workers = list(workers)
    running = [worker._process for worker in workers if worker._process]
    for process in running:
        process.popen.terminate()
        assert process.popen.stdin
        with suppress(OSError):
            process.popen.stdin.close()
    deadline = time.monotonic() + ENDS
    for process in running:
        try:
            process.popen.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.popen.kill()
            process.popen.wait()
    for worker in workers:
        worker._process = None
