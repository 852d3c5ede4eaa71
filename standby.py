"""Serve requests on standard input and output: the script loads everything once, then answers line by line.

Every line in both directions is one JSON object.

- A request holds options of the command line by name: {"prompt": "calm blue waves", "seed": 7}. Options given at the
  start apply where a request does not set them.
- Events come while a request is worked on: {"progress": [3, 20]} after step 3 of 20, and {"preview": "a/preview.png"}
  each time the preview file was rewritten.
- An answer ends each request. It holds the result, such as {"pictures": ["sample_rings_0000.png"]}, or
  {"error": "reason"}.
  "said" lists further lines for people, which would go to standard output, and "warned" those for standard error.
  They need not be parsed: what another program needs is in the result. The first answer repeats the warnings of the
  warm-up, because a library may issue a warning only once per process.
- {"ready": true} is the first line but for events of the warm-up. Requests may be sent before it.

The script ends when standard input ends and all requests are answered. It ends at once when the program that started it
has ended (except on Windows, where this cannot be noticed).
"""

import argparse
import contextlib
import io
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

import cli

HELP = "load everything, then answer one JSON request a line from standard input (see standby.py)"
CLEANUP_GRACE = 5.0  # seconds to remove temporary files in, once the program that started this one has ended
EVENTS = ("progress", "preview")  # an object with one of these keys is an event, every other one an answer

Content = dict[str, Any]  # one JSON object
Emit = Callable[[Content], None]
Parse = Callable[[Sequence[str], argparse.Namespace], argparse.Namespace]
Handler = Callable[[argparse.Namespace, Emit], Content]


def serve(parse: Parse, start: argparse.Namespace, handle: Handler, warm_up: Callable[[Emit], None]) -> int:
    """Answer requests until standard input ends; return the exit status.

    Args:
        parse: adds a request's options, as words of a command line, to the options that apply already.
        start: options given at the start.
        handle: does what the options ask for, and returns the result. It may call its second argument to send events.
        warm_up: loads everything and does all work once, so that the first request is as fast as the others. It may
            send events, too.

    Raises:
        One of `cli.USER_ERRORS`: from `warm_up`: the script cannot work.
    """
    stdout = sys.stdout
    requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(requests, os.getppid()), daemon=True).start()

    def send(content: Content) -> None:
        stdout.write(json.dumps(content) + "\n")
        stdout.flush()

    with contextlib.redirect_stdout(sys.stderr):  # libraries may print; only JSON may reach standard output
        with contextlib.redirect_stdout(io.StringIO()), _captured_stderr() as captured:
            warm_up(send)
        send({"ready": True})
        warned = _lines(captured)
        while (line := requests.get()) is not None:
            content = _answer(line, parse, start, handle, send)
            send({**content, "warned": [*warned, *content["warned"]]})
            warned = []
    return 0


def _receive(requests: "queue.SimpleQueue[bytes | None]", parent: int) -> None:
    """Queue the requests. After the last one, end the process as soon as its parent has ended."""
    for line in cli.read_lines(0):
        if line.endswith(b"\n") or line.strip():  # blanks after the last line end are no request
            requests.put(line)
    requests.put(None)
    while os.getppid() == parent:
        time.sleep(0.05)
    # a signal, because it interrupts the main thread and lets `finally` blocks remove temporary files
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(CLEANUP_GRACE)
    os._exit(1)


def _answer(line: bytes, parse: Parse, start: argparse.Namespace, handle: Handler, emit: Emit) -> Content:
    """Answer one request. An error that is meant for the user becomes part of the answer."""
    said = io.StringIO()
    with _captured_stderr() as warned:
        try:
            options = _options(_read(line), parse, start)
            with contextlib.redirect_stdout(said):
                content = handle(options, emit)
        except cli.USER_ERRORS as error:
            content = {"error": cli.describe(error)}
    return {**content, "said": said.getvalue().splitlines(), "warned": _lines(warned)}


def _read(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError("not JSON: send one JSON object per line") from error


@contextlib.contextmanager
def _captured_stderr() -> Iterator[TextIO]:
    """Capture what Python code writes to standard error; if an exception leaves the block, write it there after all."""
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            yield captured
    except BaseException:
        sys.stderr.write(captured.getvalue())
        raise


def _lines(captured: TextIO) -> list[str]:
    """Return the captured lines that are not blank."""
    captured.seek(0)
    return [line for line in captured.read().splitlines() if line.strip()]


def _options(request: object, parse: Parse, start: argparse.Namespace) -> argparse.Namespace:
    """Return the options of a request, added to those of the start.

    Raises:
        ValueError: the request is not an object, or its options are wrong.
    """
    if not isinstance(request, dict):
        raise ValueError('not a JSON object: send options by name, such as {"prompt": "calm blue waves"}')
    words = [word for name, value in request.items() for word in words_of(name, value)]
    # a command line cannot switch off a flag, a request can
    off = {name: False for name, value in request.items() if value is False and getattr(start, name, None) is True}
    defaults, complaint = argparse.Namespace(**{**vars(start), **off, "standby": False}), io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(io.StringIO()):
            parsed = parse(words, defaults)
    except SystemExit:  # how argparse reports a wrong option
        raise ValueError(complaint.getvalue() or "a request cannot ask for help or version") from None
    sys.stderr.write(complaint.getvalue())  # notes
    return parsed


def words_of(name: str, value: object) -> list[str]:
    """Return an option as words of a command line: true is a flag, a list several words, false and null nothing."""
    if value is None or value is False:
        return []
    if value is True:
        return [f"--{name}"]
    return [f"--{name}", *map(_word, value)] if isinstance(value, list) else [f"--{name}={_word(value)}"]


def _word(value: object) -> str:
    """Return a value as a word. Where a language has one kind of number, 20 may come as 20.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
