"""The messages between this program and the process that decodes for it.

Requests are JSON, length first. An answer is a series of messages: facts, blocks of samples, and how it ended.
"""

import json
import struct
from collections.abc import Iterator
from typing import IO, Any, BinaryIO

MESSAGE = struct.Struct("=cIIQ")  # kind, sample rate in Hz, channels, bytes that follow
FACTS, BLOCK, END, ERROR = b"F", b"B", b"E", b"X"
LENGTH = struct.Struct("=I")  # of a request


def send_request(stream: IO[bytes], request: dict[str, Any]) -> None:
    """Write one request, length first."""
    text = json.dumps(request).encode()
    stream.write(LENGTH.pack(len(text)) + text)
    stream.flush()


def requests(stream: BinaryIO) -> Iterator[dict[str, Any]]:
    """Yield requests until the stream ends."""
    while len(head := stream.read(LENGTH.size)) == LENGTH.size:
        (length,) = LENGTH.unpack(head)
        text = stream.read(length)
        if len(text) < length:
            return
        yield json.loads(text)
