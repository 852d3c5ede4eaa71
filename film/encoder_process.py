"""The process in which FFmpeg's libraries write a film, so that a crash costs the film and not the program.

It is started by the path of this file. Its standard input holds a line of JSON, the `Settings`, and then messages: a
frame, samples of the sound, or the end. Its standard output is one line of JSON: how many frames it has written, or
why none. If its input ends without the end, because the program was killed, it removes the file.
"""

import contextlib
import json
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

MESSAGE = struct.Struct("<cQ")  # kind, and bytes of the content
FRAME, SOUND, END = b"F", b"S", b"E"  # RGB of all pixels; float32 of all channels, sample by sample; nothing
PICTURES = {  # encoder of each format, and its options
    "mp4": ("libx264", {"preset": "medium", "crf": "18", "threads": "1"}),  # more threads give other bytes
    "webm": ("libvpx-vp9", {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}),
}
SOUNDS = {"mp4": "aac", "webm": "libopus"}
BIT_RATE = 96_000  # of each channel
CONTAINERS = {"mp4": {"movflags": "+faststart"}, "webm": {"fflags": "+bitexact"}}  # the same bytes for the same film
KEY_FRAME_SECONDS = 2  # between images that a player can jump to
BT709, SRGB, LIMITED = 1, 13, 1  # matrix and primaries, transfer, range of the colours (ITU-T H.273)


@dataclass(frozen=True)
class Settings:
    """A film, as it is encoded."""

    path: str
    format: str  # mp4 or webm
    fps: tuple[int, int]  # frames in so many seconds
    size: tuple[int, int]  # width, height in pixels, both even
    sample_rate: int  # Hz
    channels: int  # of the sound, 1 or 2; 0: no sound
    metadata: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the line that `from_json` reads."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_json(cls, line: bytes) -> "Settings":
        """Read a line of `to_json`."""
        return cls(**json.loads(line))


class _Film:
    """A film under way."""

    def __init__(self, container: "OutputContainer", settings: Settings) -> None:
        self.container, self.settings = container, settings
        self.frames = self.samples = 0
        self.fps = Fraction(*settings.fps)
        container.metadata.update(settings.metadata)
        self.pictures = self._picture_stream()
        self.sound = self._sound_stream() if settings.channels else None

    def _picture_stream(self) -> "VideoStream":
        name, options = PICTURES[self.settings.format]
        options = options | {"g": str(max(1, round(KEY_FRAME_SECONDS * self.fps)))}
        stream: Any = self.container.add_stream(name, rate=self.fps, options=options)
        context = stream.codec_context
        context.width, context.height = self.settings.size
        context.pix_fmt, context.time_base = "yuv420p", 1 / self.fps
        context.colorspace = context.color_primaries = BT709
        context.color_trc, context.color_range = SRGB, LIMITED
        return stream

    def _sound_stream(self) -> "AudioStream":
        layout = "mono" if self.settings.channels == 1 else "stereo"
        name = SOUNDS[self.settings.format]
        stream: Any = self.container.add_stream(name, rate=self.settings.sample_rate, layout=layout)
        stream.codec_context.bit_rate = BIT_RATE * self.settings.channels
        return stream

    def add_frame(self, content: bytes) -> None:
        import av
        import numpy as np
        from av.video.reformatter import ColorRange, Colorspace

        width, height = self.settings.size
        image = av.VideoFrame.from_ndarray(np.frombuffer(content, np.uint8).reshape(height, width, 3), format="rgb24")
        frame = image.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
        frame.pts, frame.time_base = self.frames, 1 / self.fps
        self.frames += 1
        self._write(self.pictures.encode(frame))

    def add_sound(self, content: bytes) -> None:
        import av
        import numpy as np

        assert self.sound
        samples: np.ndarray = np.frombuffer(content, np.float32).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout=self.sound.layout.name)
        frame.sample_rate, frame.pts = self.settings.sample_rate, self.samples
        frame.time_base = Fraction(1, self.settings.sample_rate)
        self.samples += frame.samples
        self._write(self.sound.encode(frame))

    def end(self) -> None:
        """Write what the encoders hold back."""
        self._write(self.pictures.encode(None))
        if self.sound:
            self._write(self.sound.encode(None))

    def _write(self, packets: Iterable["Packet"]) -> None:
        for packet in packets:
            self.container.mux(packet)


def messages(stream: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of each message; the last one is END.

    Raises:
        EOFError: the input ended without it.
    """
    kind = b""
    while kind != END:
        kind, size = MESSAGE.unpack(_read(stream, MESSAGE.size))
        yield kind, _read(stream, size)


def _read(stream: BinaryIO, size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return content


def encode(settings: Settings, stream: BinaryIO) -> int:
    """Write the film whose frames and sound `stream` brings; return the number of frames.

    Raises:
        EOFError: the program that sends them has ended.
        OSError, av.FFmpegError: the film cannot be written.
    """
    import av

    with av.open(settings.path, "w", format=settings.format, options=CONTAINERS[settings.format]) as container:
        film = _Film(container, settings)
        for kind, content in messages(stream):
            if kind == FRAME:
                film.add_frame(content)
            elif kind == SOUND:
                film.add_sound(content)
        film.end()
    return film.frames


def main() -> None:
    """Write one film, and say how it ended."""
    line = sys.stdin.buffer.readline()
    if not line:
        return
    settings = Settings.from_json(line)
    answer: dict[str, Any]
    try:
        answer = {"frames": encode(settings, sys.stdin.buffer)}
    except EOFError:
        with contextlib.suppress(OSError):
            os.remove(settings.path)
        return
    except Exception as error:
        text = " ".join(str(getattr(error, "strerror", None) or error).split())
        answer = {"kind": type(error).__name__, "text": text, "errno": _errno(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _errno(error: Exception) -> int | None:
    """Return the system's number of an error; FFmpeg's own errors have numbers that mean nothing to the system."""
    number = getattr(error, "errno", None)
    return number if isinstance(error, OSError) and isinstance(number, int) and 0 < number < 4096 else None


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        main()
