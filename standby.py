"""A script that stands by: loaded, then one request a line on standard input, and one answer a line on standard output.

Both are JSON objects. The first line, {"ready": true}, comes once everything is loaded. A request holds options of the
command line by their names, {"prompt": "calm blue waves", "seed": 7}; those that were given at the start hold where a
request does not say otherwise. An answer holds what the script makes, or {"error": why not}, in "said" the lines that
it would have printed, and in "warned" those for standard error, in the first answer also those of the rehearsal; only
progress goes there, as it is made. The end of standard input ends the script, once all requests are answered; the end
of whoever started it ends it at once (on Windows, which does not tell of that, the end of standard input has to do).
"""

import argparse
import contextlib
import io
import json
import os
import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

import cli

HELP = "load everything, then answer one request a line on standard input, all in JSON: see standby.py"
PROGRESS = re.compile(r"\d+%\|")  # tqdm's bar
LAST_WORDS = 5.0  # seconds for cleaning up where nobody is left to answer to, before the process just ends

Request = dict[str, Any]
Parse = Callable[[Sequence[str], argparse.Namespace], argparse.Namespace]


def serve(
    parse: Parse,
    start: argparse.Namespace,
    answer: Callable[[argparse.Namespace], Request],
    warm_up: Callable[[], None],
) -> int:
    """Answer requests until standard input ends.

    Args:
        parse: adds a request's options, as words of a command line, to those that hold already.
        start: the options that were given at the start; they hold where a request does not say otherwise.
        answer: does what all of them ask for.
        warm_up: loads, and does everything once, so that the first request is answered as fast as any other. What it
            warns of, and may say only once, holds for requests, too: the first answer says it.

    Raises:
        ValueError, OSError, RuntimeError: from `warm_up`, so that nobody waits for a script that cannot work.
    """
    answers = sys.stdout
    requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, os.getppid()), daemon=True).start()
    with contextlib.redirect_stdout(sys.stderr):  # nothing but answers on standard output, whatever libraries print
        with contextlib.redirect_stdout(io.StringIO()), _warnings() as rehearsed:
            warm_up()
        _send(answers, {"ready": True})
        warned = rehearsed.lines()
        while (line := requests.get()) is not None:
            content = _answer_to(line, parse, start, answer)
            _send(answers, {**content, "warned": [*warned, *content["warned"]]})
            warned = []
    return 0


def _listen(requests: "queue.SimpleQueue[bytes | None]", starter: int) -> None:
    """Hand lines on; at the end of standard input find out whether whoever started this is still there."""
    left = b""
    with contextlib.suppress(OSError):  # it is closed
        while came := os.read(0, 65536):  # not sys.stdin.readline: see terminal.Keyboard
            *lines, left = (left + came).split(b"\n")
            for line in lines:
                requests.put(line)
    if left.strip():  # a last line without an end
        requests.put(left)
    requests.put(None)
    while os.getppid() == starter:
        time.sleep(0.05)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)  # which wakes it: temporary files go
    time.sleep(LAST_WORDS)
    os._exit(1)


def _answer_to(
    line: bytes, parse: Parse, start: argparse.Namespace, answer: Callable[[argparse.Namespace], Request]
) -> Request:
    said = io.StringIO()
    with _warnings() as warned:
        try:
            options = _options(_read(line), parse, start)
            with contextlib.redirect_stdout(said):
                content = answer(options)
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            content = {"error": cli.describe(error)}
    return {**content, "said": said.getvalue().splitlines(), "warned": warned.lines()}


def _read(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError("a request is one line of JSON, and this is none") from error


class _Warnings(io.StringIO):
    """Standard error without progress, which goes on to where it went before."""

    def __init__(self, shown: TextIO) -> None:
        super().__init__()
        self._shown = shown

    @property
    def encoding(self) -> str:  # type: ignore[override]  # of io.StringIO it is None, and can be set
        return self._shown.encoding  # tqdm draws its bar accordingly

    def write(self, text: str) -> int:
        return self._shown.write(text) if text.startswith("\r") or PROGRESS.search(text) else super().write(text)

    def flush(self) -> None:
        self._shown.flush()

    def lines(self) -> list[str]:
        return [line for line in self.getvalue().splitlines() if line.strip()]


@contextlib.contextmanager
def _warnings() -> Iterator[_Warnings]:
    """What is written to standard error; where the block ends by an exception, it is written there after all."""
    warned = _Warnings(sys.stderr)
    try:
        with contextlib.redirect_stderr(warned):
            yield warned
    except BaseException:
        sys.stderr.write(warned.getvalue())
        raise


def _options(request: object, parse: Parse, start: argparse.Namespace) -> argparse.Namespace:
    """What a request asks for.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(request, dict):
        raise ValueError('a request is a JSON object of options, as {"prompt": "calm blue waves"}')
    words = [word for name, value in request.items() for word in _words(name, value)]
    off = {name: False for name, value in request.items() if value is False and getattr(start, name, None) is True}
    held, complaint = argparse.Namespace(**{**vars(start), **off, "standby": False}), io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(io.StringIO()):
            return parse(words, held)
    except SystemExit:  # argparse's way
        raise ValueError(complaint.getvalue() or "help and version are for the command line") from None


def _words(name: str, value: object) -> list[str]:
    """An option of the command line: true and false switch, lists are several words, null leaves it out."""
    if value is None or value is False:
        return []
    if value is True:
        return [f"--{name}"]
    return [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]


def _send(stream: TextIO, content: Request) -> None:
    print(json.dumps(content), file=stream, flush=True)
