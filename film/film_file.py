"""Write a film: frames and the sound of a recording as H.264 and AAC in mp4, or as VP9 and Opus in WebM."""

import contextlib
import errno
import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from files import atomic_path
from film import encoder_process
from film.encoder_process import END, FRAME, MESSAGE, SOUND, Settings
from film.soundtrack import SAMPLE_RATE, Soundtrack, open_soundtrack

FORMATS = {".mp4": "mp4", ".webm": "webm"}
NO_FRAMES = "a film needs at least one frame"


def check_library() -> None:
    """Raise RuntimeError if PyAV, which writes films, is not installed."""
    if not importlib.util.find_spec("av"):
        raise RuntimeError("a film needs PyAV, which is not installed: pip install av")


class FilmWriter:
    """A film that is being written, by a process of its own, beside the painting of its frames.

    It appears under its name when the `with` block ends; if the block ends by an exception, nothing does.
    """

    def __init__(
        self,
        path: Path,
        fps: int | Fraction,
        size: tuple[int, int],
        sound: Path | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare a film; `with` begins it.

        Args:
            path: of the film, which ends in .mp4 or .webm.
            fps: frames a second.
            size: width and height of the frames in pixels. A film has an even width and height: the last column and
                row of odd ones are repeated.
            sound: a recording, cut where the frames end; None: no sound.
            metadata: of the file, such as title, artist and comment. mp4 keeps only names that it knows. What is no
                text becomes a question mark.

        Raises:
            ValueError: the name has another ending.
        """
        if path.suffix.lower() not in FORMATS:
            raise ValueError(f"{path} is no name of a film: it must end in {' or '.join(FORMATS)}")
        self.path, self.fps, self.size = path, Fraction(fps), size
        self.frames = 0  # that were added
        # a file name may hold bytes that are no text, and FFmpeg takes none
        text = {name: value.encode("utf-8", "replace").decode() for name, value in (metadata or {}).items()}
        self._recording, self._metadata = sound, text
        self._stack = contextlib.ExitStack()
        self._soundtrack: Soundtrack | None = None
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> "FilmWriter":
        """Start the process.

        Raises:
            ValueError: the recording cannot be used.
            RuntimeError: PyAV is not installed.
            OSError: the recording cannot be read, or the folder of the film cannot be made.
        """
        check_library()
        with contextlib.ExitStack() as stack:
            if self._recording:
                self._soundtrack = stack.enter_context(open_soundtrack(self._recording))
            temporary = stack.enter_context(atomic_path(self.path))
            self._process = _start()
            stack.callback(_stop, self._process)
            self._stack = stack.pop_all()
        self._send(self._settings(temporary).to_json())
        return self

    def add(self, frame: np.ndarray) -> None:
        """Add the next frame, [H, W, 3] uint8.

        Raises:
            ValueError: it has another shape or type; or the recording is broken.
            OSError: the film, or the recording, cannot be read or written.
            RuntimeError: the process has ended.
        """
        width, height = self.size
        if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
            raise ValueError(
                f"the frame is {list(frame.shape)} {frame.dtype}; [{height}, {width}, 3] uint8 is needed, as the film "
                "began"
            )
        padded = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        self._message(FRAME, np.ascontiguousarray(padded).data.cast("B"))
        self.frames += 1
        if self._soundtrack:
            sound = self._soundtrack.until(float(self.frames / self.fps))
            if len(sound):
                self._message(SOUND, np.ascontiguousarray(sound).data.cast("B"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the film, which gets its name; or, after an exception, remove what there is of it.

        Raises:
            ValueError: there was no frame.
            OSError, RuntimeError: as `add`.
        """
        with self._stack:
            if error is not None:
                _stop(self._process)
                raise error
            if not self.frames:
                raise ValueError(NO_FRAMES)
            self._message(END, memoryview(b""))
            self._answer()

    def _settings(self, temporary: Path) -> Settings:
        width, height = self.size
        return Settings(
            path=str(temporary.absolute()),
            format=FORMATS[self.path.suffix.lower()],
            fps=(self.fps.numerator, self.fps.denominator),
            size=(width + width % 2, height + height % 2),
            sample_rate=SAMPLE_RATE,
            channels=self._soundtrack.channels if self._soundtrack else 0,
            metadata=self._metadata,
        )

    def _message(self, kind: bytes, content: memoryview) -> None:
        self._send(MESSAGE.pack(kind, len(content)))
        self._send(content)

    def _send(self, content: bytes | memoryview) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(content)
            self._process.stdin.flush()
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EINVAL):  # EINVAL: on Windows
                raise
            self._answer()
            raise self._ended() from error

    def _answer(self) -> None:
        """Wait for the process to end; raise the error that it tells."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        self._process.wait()
        try:
            said: dict[str, Any] = json.loads(line)
        except ValueError:
            raise self._ended() from None
        if "frames" in said:
            return
        if said["errno"]:
            raise OSError(said["errno"], said["text"], str(self.path))
        if said["kind"] == "UnknownCodecError":
            raise RuntimeError(
                f"this PyAV has no encoder {said['text']} for {self.path.name}; install its own packages (pip install "
                "--force-reinstall av), or choose the other of mp4 and WebM"
            )
        raise RuntimeError(f"{self.path} cannot be encoded: {said['text'] or said['kind']}")

    def _ended(self) -> RuntimeError:
        status = self._process.wait()
        how = f"with status {status}"
        with contextlib.suppress(ValueError):
            how = f"by {signal.Signals(-status).name}, as if memory runs out" if status < 0 else how
        return RuntimeError(f"the encoder of {self.path} ended {how}; run this again")


def _start() -> "subprocess.Popen[bytes]":
    settings: dict[str, Any] = {"start_new_session": True}  # Ctrl-C is for this process to answer
    if sys.platform == "win32":
        settings = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    return subprocess.Popen(
        [sys.executable, encoder_process.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        **settings,
    )


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the process, if it has not ended, and close its pipes."""
    if process.poll() is None:
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            if pipe:
                pipe.close()
