"""Decode through PyAV in a process of its own, which serves many files and whose end costs one of them.

The process is started when the first file needs it, and is used again for the next ones. If it dies in a file that was
not its first, that file is tried once more in a new process, since an earlier file may have broken it.
"""

import atexit
import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from .decoder_messages import BLOCK, END, ERROR, MESSAGE, send_request
from .sound import AudioError, DecoderEnded, Sound

LEAST_SECONDS, BYTES_A_SECOND = 30, 200_000  # of processor time that a file may take, below what a worker is given
UNNOTICED = 0.1  # seconds that may be missing: some headers promise a rounded length
PIPE_BYTES = 1 << 20
PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "decoder_process.py")
_SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ of Linux, which Python 3.10 knows by its name


@functools.cache
def decoder_name() -> str:
    """Return the decoder's name as in `Sound.decoder`, such as "PyAV 18.1.0"; "" if PyAV is not installed."""
    if not importlib.util.find_spec("av"):
        return ""
    try:
        return f"PyAV {importlib.metadata.version('av')}"
    except importlib.metadata.PackageNotFoundError:
        return "PyAV"


@contextlib.contextmanager
def open_with_av(path: Path | str, block: int = 1 << 18) -> Iterator[Sound]:
    """Open a recording in any format that FFmpeg knows, whose blocks hold up to `block` samples of all channels.

    Raises:
        AudioError: not a recording, or broken; also while the blocks are read. The message does not name the file.
        DecoderEnded: the decoder was ended from outside, or lacked memory; another try may succeed.
        OSError: the file is not there, or may not be read.
    """
    if not decoder_name():
        raise AudioError("this kind of recording needs PyAV, which is not installed: pip install av")
    conversation = _Conversation(os.path.abspath(path), block)
    try:
        facts = conversation.facts()
        yield Sound(
            facts["rate"],
            decoder_name(),
            conversation.blocks(),
            conversation.damage,
            facts["channels"],
            facts["clips"],
            facts["stream"],
            facts["streams"],
            facts["seconds"],
        )
    finally:
        conversation.close()


def start_decoder() -> None:
    """Start the process now, so that the first file does not wait for it. Without PyAV, do nothing."""
    if decoder_name():
        _put_back(_take())


# --- the process -----------------------------------------------------------------------------------------------------
class _Died(Exception):
    """The decoder's process ended before its answer did."""

    def __init__(self, status: int, fresh: bool) -> None:
        self.status, self.fresh = status, fresh


class _Decoder:
    """A running process."""

    def __init__(self) -> None:
        self.served = 0
        settings: dict[str, Any] = {"start_new_session": True}  # Ctrl-C is for this process to answer
        if sys.platform == "win32":
            settings = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"},
            **settings,
        )
        assert self.process.stdin and self.process.stdout
        self.requests: Any = self.process.stdin
        self.answers: Any = self.process.stdout
        if sys.platform == "linux":
            import fcntl

            with contextlib.suppress(OSError):
                fcntl.fcntl(self.answers.fileno(), _SET_PIPE_SIZE, PIPE_BYTES)
        with contextlib.suppress(BrokenPipeError):  # said, and better, by the first answer
            send_request(self.requests, {"folders": _package_folders()})

    def ask(self, request: dict[str, Any]) -> Iterator[tuple[bytes, int, Any]]:
        """Yield kind, sample rate and content of each message of the answer.

        Raises:
            _Died: the process ended.
        """
        fresh = self.served == 0
        self.served += 1
        with contextlib.suppress(BrokenPipeError):
            send_request(self.requests, request)
        kind = b""
        while kind not in (END, ERROR):
            kind, rate, channels, length = MESSAGE.unpack(self._read(MESSAGE.size, fresh))
            if kind == BLOCK:
                block = np.empty((length // 4 // channels, channels), np.float32)
                if self.answers.readinto(memoryview(block.data).cast("B")) < length:
                    raise _Died(self.end(), fresh)
                yield kind, rate, block
            else:
                yield kind, rate, json.loads(self._read(length, fresh))

    def _read(self, size: int, fresh: bool) -> bytes:
        data = self.answers.read(size)
        if len(data) < size:
            raise _Died(self.end(), fresh)
        return data

    def end(self) -> int:
        """End the process if it has not ended yet; return its exit status, negative for a signal."""
        try:
            status = self.process.wait(5)  # its output has ended, so it is about to
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        for pipe in (self.requests, self.answers):
            with contextlib.suppress(OSError):
                pipe.close()
        return status

    def stop(self) -> None:
        """End the process without waiting for what it does."""
        self.process.kill()
        self.end()


def _package_folders() -> list[str]:
    """Return the folders of the packages that the process needs, which it may not find where this program does."""
    specs = [importlib.util.find_spec(name) for name in ("av", "numpy")]
    return [os.path.dirname(os.path.dirname(spec.origin)) for spec in specs if spec and spec.origin]


_idle: list[_Decoder] = []
_lock = threading.Lock()


def _take() -> _Decoder:
    with _lock:
        while _idle:
            decoder = _idle.pop()
            if decoder.process.poll() is None:
                return decoder
            decoder.end()
    return _Decoder()


def _put_back(decoder: _Decoder) -> None:
    with _lock:
        _idle.append(decoder)


def _end_all() -> None:
    while _idle:
        _idle.pop().stop()


def _forget_all() -> None:
    """Leave the processes to the process that started them, in one that was forked off it."""
    global _lock
    _lock = threading.Lock()
    _forgotten.extend(_idle)  # kept, so that nothing waits for them, or closes their pipes twice
    _idle.clear()


_forgotten: list[_Decoder] = []
atexit.register(_end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


# --- one file --------------------------------------------------------------------------------------------------------
class _Conversation:
    """The decoding of one file, whichever process does it."""

    def __init__(self, path: str, block: int) -> None:
        limit = LEAST_SECONDS + os.stat(path).st_size / BYTES_A_SECOND
        self.request: dict[str, Any] = {"file": path, "block": block, "seconds": limit}
        self.messages = self._messages()
        self.decoder: _Decoder | None = None
        self.said: dict[str, Any] = {}
        self.rate = 0

    def facts(self) -> dict[str, Any]:
        _, _, content = next(self.messages)
        self.said, self.rate = content, content["rate"]
        return content

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield samples [T, channels], all at the rate of the facts."""
        yield from joined(self._stretches(), self.rate, self.said["channels"])

    def _stretches(self) -> Iterator[tuple[int, np.ndarray]]:
        for kind, rate, content in self.messages:
            if kind == END:
                self.said |= content
            else:
                yield rate, content

    def damage(self, samples: int) -> str:
        """Describe what is missing from the file, given that so many samples of each channel came; "" if nothing is."""
        seconds, promised = samples / self.rate, self.said.get("promised", 0.0)
        notes = "; ".join(self.said.get("notes", ()))
        if promised - seconds > UNNOTICED:
            return f"damaged: {seconds:.2f} of {promised:.2f} s could be read" + (f" ({notes})" if notes else "")
        if self.said.get("cut"):
            return f"damaged: cut off after {seconds:.2f} s" + (f" ({notes})" if notes else "")
        return f"damaged: {seconds:.2f} s could be read ({notes})" if notes else ""

    def close(self) -> None:
        self.messages.close()
        if self.decoder:
            self.decoder.stop()  # in the middle of its answer
            self.decoder = None

    def _messages(self) -> Any:
        given = 0
        while True:
            self.decoder = _take()
            try:
                for number, message in enumerate(self.decoder.ask(self.request)):
                    if message[0] == ERROR:
                        self._finish()
                        raise _error(message[2], self.request["file"])
                    if message[0] == END:
                        self._finish()
                    if number >= given:  # what an earlier process gave is the same
                        given += 1
                        yield message
                return
            except _Died as died:
                self.decoder = None
                if died.fresh or died.status == _OUT_OF_TIME:
                    raise _end_of(died.status) from None

    def _finish(self) -> None:
        if self.decoder:
            _put_back(self.decoder)
        self.decoder = None


def joined(stretches: Iterable[tuple[int, np.ndarray]], rate: int, channels: int) -> Iterator[np.ndarray]:
    """Bring stretches, each a sample rate and samples [T, any], to one rate and [T, channels] with the same mean."""
    converter: _Resampler | None = None
    for now, block in stretches:
        if block.shape[1] != channels:
            mono = block.mean(axis=1, dtype=np.float32, keepdims=True)
            block = np.repeat(mono, channels, axis=1)
        if converter and now != converter.rate:
            yield from converter.rest()
            converter = None
        if now == rate:
            yield block
        else:
            converter = converter or _Resampler(now, rate, channels)
            yield from converter.convert(block)
    if converter:
        yield from converter.rest()


class _Resampler:
    """Brings a stretch of another sample rate to that of the file."""

    def __init__(self, rate: int, target: int, channels: int) -> None:
        self.rate, self._ratio, self._taken, self._given = rate, target / rate, 0, 0
        self._stream = soxr.ResampleStream(rate, target, channels, dtype="float32", quality="soxr_hq")
        self._channels = channels

    def convert(self, block: np.ndarray) -> Iterator[np.ndarray]:
        self._taken += len(block)
        yield from self._out(self._stream.resample_chunk(block))

    def rest(self) -> Iterator[np.ndarray]:
        yield from self._out(self._stream.resample_chunk(np.zeros((0, self._channels), np.float32), last=True))

    def _out(self, block: np.ndarray) -> Iterator[np.ndarray]:
        block = block[: round(self._taken * self._ratio) - self._given]
        self._given += len(block)
        if len(block):
            yield block


_OUT_OF_TIME = -int(getattr(signal, "SIGPROF", 0)) or 1  # of faulthandler, on Windows
_FROM_OUTSIDE = {
    -int(getattr(signal, name)) for name in ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)
}


def _end_of(status: int) -> Exception:
    if status in _FROM_OUTSIDE:
        name = signal.Signals(-status).name
        return DecoderEnded(f"its decoder was ended from outside ({name}), as if memory runs out; run this again")
    if status == 1 and os.name != "nt":
        return DecoderEnded("its decoder does not start; reinstall av")
    return AudioError("its decoder crashed or came to no end; convert it to wav")


def _error(said: dict[str, Any], path: str) -> Exception:
    if said["kind"] == "os":
        return OSError(said["errno"], said["text"], path) if said["errno"] else DecoderEnded(said["text"])
    if said["kind"] == "import":
        return DecoderEnded(f"PyAV cannot be used ({said['text']}): pip install --force-reinstall av")
    text = said["text"][:1].lower() + said["text"][1:]
    return AudioError(f"not a recording that can be read ({text}); it is no audio, or damaged")
