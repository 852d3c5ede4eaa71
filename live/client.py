"""The client of a script that runs with `--standby`: start it, send requests, notice that it died or hangs.

The protocol, one JSON object a line, is that of `standby.py`.
"""

import io
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cli
import standby
from live.display import Display

TERMINATE_GRACE = 0.5  # seconds for a script to clean up after SIGTERM; then it is killed
STDERR_GRACE = 2.0  # seconds to wait for the rest of stderr of a dead script, which a child process may keep open


class ClientError(RuntimeError):
    """A script could not do what was asked; the message, one line, says why."""


class ClientDied(ClientError):
    """The script has ended, or was ended because it hung. The next request starts it again."""

    def __init__(self, message: str, was_ready: bool) -> None:
        """Keep whether the script had been ready: then it is worth another try."""
        super().__init__(message)
        self.was_ready = was_ready


@dataclass(frozen=True)
class Answer:
    """The answer to one request."""

    content: dict[str, Any]
    output: list[str]  # lines for people, besides the content
    warnings: list[str]  # lines that it would have written to standard error


@dataclass
class _Process:
    """One run of the script."""

    popen: "subprocess.Popen[bytes]"
    lines: "queue.SimpleQueue[bytes | None]" = field(default_factory=queue.SimpleQueue)  # None: the end of the output
    errors: list[str] = field(default_factory=list)  # lines on standard error since the last answer
    last_sign: float = field(default_factory=time.monotonic)  # time of its last sign of life: a line, or a request
    ready: bool = False
    errors_read: threading.Event = field(default_factory=threading.Event)  # set at the end of standard error


class ScriptClient:
    """A script that is started with `--standby`. One thread may ask while another calls `check`."""

    def __init__(self, script: Path, arguments: Sequence[str], hang_timeout: float) -> None:
        """Set up the client; `start` or the first request starts the script.

        Args:
            script: path of the script.
            arguments: its command line.
            hang_timeout: seconds without any line from the script after which it is considered hung, and ended.
        """
        self.name = script.name
        self._command = [sys.executable, str(script), *arguments, "--standby"]
        self._hang_timeout = hang_timeout
        self._process: _Process | None = None
        self._closed = False
        self._starting = threading.Lock()  # held from the look at `_closed` until `_process` is set

    def start(self) -> _Process:
        """Start the script if it does not run; return at once.

        Raises:
            ClientDied: the client was closed.
        """
        with self._starting:
            if self._closed:
                raise ClientDied(f"{self.name} was ended, as the run is over", was_ready=False)
            self._process = self._process or self._launch()
            return self._process

    def _launch(self) -> _Process:
        """Start the script, and the threads that read what it writes."""
        popen = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONIOENCODING": "utf-8:surrogateescape"},
            # Ctrl-C must reach this program only, which then ends the script (the second option is for Windows)
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        process = _Process(popen)
        for read in (_read_lines, _read_errors):
            threading.Thread(target=read, args=(process,), daemon=True).start()
        return process

    def check(self) -> None:
        """Raise ClientDied if the script has ended before it was ready."""
        process = self._process
        if process and not process.ready and process.popen.poll() is not None:
            raise self._exit_error(process)

    def await_ready(self, display: Display | None = None) -> None:
        """Wait until the script has loaded everything; start it if it does not run.

        Raises:
            ClientDied: the script ended, or hangs, or the client was closed.
        """
        self._await_ready(self.start(), display)

    def _await_ready(self, process: _Process, display: Display | None) -> None:
        if process.ready:
            return
        if display:
            display.status(f"loading {self.name}...")
        try:
            self._next_answer(process, None)
        finally:
            if display:
                display.status("")
        process.ready = True

    def ask(self, request: Mapping[str, object], display: Display | None = None) -> Answer:
        """Send options to the script and wait for its answer; start it if it does not run.

        Args:
            request: options of the script by name.
            display: is told the events between the request and its answer.

        Raises:
            ClientError: the script says why it cannot do it.
            ClientDied: the script ended, or hangs, or the client was closed.
        """
        # one process for the whole request: another thread may close the client in between
        process = self.start()
        process.last_sign = time.monotonic()
        assert process.popen.stdin
        line = json.dumps(request).encode() + b"\n"
        with suppress(OSError, ValueError):  # a broken or closed pipe: the script has ended, which is reported below
            process.popen.stdin.write(line)
            process.popen.stdin.flush()
        self._await_ready(process, display)
        content = self._next_answer(process, display)
        process.errors = []
        output, warnings = content.pop("said", []), content.pop("warned", [])
        if error := content.get("error"):
            raise ClientError(f"{self.name}: {error.removeprefix(self.name + ': ')}")
        return Answer(content, output, warnings)

    def _next_answer(self, process: _Process, display: Display | None) -> dict[str, Any]:
        """Return the next JSON object that is no event; pass events on to the display."""
        while True:
            try:
                line = process.lines.get(timeout=0.2)  # a timeout, because on Windows Ctrl-C cannot end a wait
            except queue.Empty:
                if time.monotonic() - process.last_sign > self._hang_timeout:
                    end([self])
                    message = f"{self.name} showed no sign of life for {self._hang_timeout:g} s"
                    raise ClientDied(message, process.ready) from None
                continue
            if line is None:
                raise self._exit_error(process)
            content = _parse(line)
            if content is None:  # printed past the protocol, for instance by a C library
                process.errors.append(line.decode(errors="replace").rstrip())
            elif not content.keys() & set(standby.EVENTS):
                return content
            elif display:
                _show(content, display)

    def _exit_error(self, process: _Process) -> ClientDied:
        """Return an error that says how the script ended and the last line of its standard error."""
        with suppress(subprocess.TimeoutExpired):
            process.popen.wait(TERMINATE_GRACE)
        end([self])
        process.errors_read.wait(STDERR_GRACE)
        status = process.popen.returncode
        how = f"was killed by signal {-status}" if status < 0 else f"failed with status {status}"
        if status == 0:
            how = "ended before its work was done"
        *earlier, last = process.errors or [""]
        if cli.traceback_wanted():
            print(*earlier, sep="\n", file=sys.stderr)
        last = last.removeprefix(f"{self.name}: ")
        return ClientDied(f"{self.name} {how}{f': {last}' if last else ''}", process.ready)


def end(clients: Iterable[ScriptClient]) -> None:
    """Terminate scripts, and kill those that are still there after TERMINATE_GRACE seconds in all."""
    clients = list(clients)
    running = [client._process for client in clients if client._process]
    for process in running:
        process.popen.terminate()
        assert process.popen.stdin
        with suppress(OSError):
            process.popen.stdin.close()
    deadline = time.monotonic() + TERMINATE_GRACE
    for process in running:
        try:
            process.popen.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.popen.kill()
            process.popen.wait()
    for client in clients:
        client._process = None


def close(clients: Iterable[ScriptClient]) -> None:
    """End scripts, and let no thread start them again."""
    clients = list(clients)
    for client in clients:
        with client._starting:
            client._closed = True
    end(clients)


def _read_lines(process: _Process) -> None:
    """Queue what the script writes to standard output."""
    for line in process.popen.stdout or ():
        process.last_sign = time.monotonic()
        process.lines.put(line)
    process.lines.put(None)


def _read_errors(process: _Process) -> None:
    """Collect what the script writes to standard error past `standby.serve`, for the message should it die."""
    assert process.popen.stderr
    for line in io.TextIOWrapper(process.popen.stderr, encoding="utf-8", errors="surrogateescape"):
        process.last_sign = time.monotonic()
        if line.strip():
            process.errors.append(line.rstrip("\n"))
    process.errors_read.set()


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return a line's JSON object, or None if it is something else."""
    with suppress(ValueError):
        content = json.loads(line)
        if isinstance(content, dict):
            return content
    return None


def _show(event: dict[str, Any], display: Display) -> None:
    """Pass an event on; one that is malformed counts as a sign of life only."""
    match event:
        case {"progress": [int(step), int(steps)]}:
            display.progress(step, steps)
        case {"preview": str(path)}:
            display.preview(Path(path))
