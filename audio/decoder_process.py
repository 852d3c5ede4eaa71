"""The process in which FFmpeg's libraries decode, so that a crash costs one file and not the program.

It is started by the path of this file, and talks over its standard input and output: requests and facts as JSON,
samples as native float32. It ends when its input ends, that is, with the process that started it.
"""

import contextlib
import errno
import faulthandler
import json
import os
import signal
import site
import sys
import types
from collections.abc import Iterator
from typing import Any, BinaryIO

PASSING = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN)  # say nothing about the file
OF_OPENING = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EIO, errno.ELOOP)


def main() -> None:
    """Answer requests: first the folders of packages, then one request for each file."""
    answers = _own_output()
    from .decoder_messages import ERROR, MESSAGE, requests

    asked = requests(sys.stdin.buffer)
    if (first := next(asked, None)) is None:
        return
    for folder in first["folders"]:
        site.addsitedir(folder)  # behind those that are searched anyway
    decode: Any = None
    for request in asked:
        try:
            if decode is None:
                from .av_decoding import decode
            with _time_limit(request["seconds"]):
                for kind, rate, channels, payload in decode(request["file"], request["block"]):
                    answers.write(MESSAGE.pack(kind, rate, channels, len(payload)))
                    answers.write(payload)
        except Exception as error:
            text = json.dumps(_explain(error)).encode()
            answers.write(MESSAGE.pack(ERROR, 0, 0, len(text)) + text)
        answers.flush()


def _explain(error: Exception) -> dict[str, Any]:
    if isinstance(error, MemoryError):
        return {"kind": "os", "errno": errno.ENOMEM, "text": os.strerror(errno.ENOMEM)}
    if isinstance(error, ImportError):
        return {"kind": "import", "text": " ".join(str(error).split())}
    number = getattr(error, "errno", None)
    # FFmpeg's own errors may be OSErrors, too
    of_system = isinstance(error, OSError) and not type(error).__module__.startswith("av")
    if number in PASSING or (of_system and number in OF_OPENING):
        return {"kind": "os", "errno": number, "text": os.strerror(number)}
    return {"kind": "file", "text": " ".join(str(getattr(error, "strerror", None) or error).split())}


def _own_output() -> BinaryIO:
    """Keep standard output for the answers; whatever else a library prints goes nowhere."""
    answers = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return answers


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """End this process if a file takes so much processor time (on Windows: so much time)."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF, which ends a process that does not handle it
    else:
        faulthandler.dump_traceback_later(seconds, exit=True, file=open(os.devnull, "w"))  # noqa: SIM115
    try:
        yield
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, 0)
        else:
            faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    # a package of which this folder is the path, so that relative imports work and no __init__ is run
    __package__ = "decoder"
    package = types.ModuleType(__package__)
    package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
    sys.modules[__package__] = package
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        main()
    os._exit(0)  # nothing to clean up, and no error on a pipe that is closed
