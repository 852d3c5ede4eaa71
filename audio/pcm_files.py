"""The headers of wav, AIFF, AU, CAF and W64 files: where the sound begins, how much is promised, how much is there.

libsndfile believes headers. Recorders that crash, and programs that write to a pipe, leave sizes of zero or of two
gigabytes in them; some forget a pad byte; some append a whole file to another one. For such files this module makes a
header that is true, in front of the same samples, so that libsndfile still decodes them.

Sources: Multimedia Programming Interface 1.0 (RIFF), EBU Tech 3306 (RF64), Apple AIFF-C, Apple CAF 1.0, Sony W64.
"""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

UNKNOWN = 0x7F00_0000  # bytes; programs that write to a pipe put this or more into a header
MOST_CHUNKS, MOST_PARTS = 10_000, 10_000
LONGEST_HEAD = 1 << 20  # bytes that are copied from in front of the samples
W64_RIFF, W64_DATA = (
    bytes.fromhex("726966662e91cf11a5d628db04c10000"),
    bytes.fromhex("64617461f3acd3118cd100c04f8edb8a"),
)
NO_SOUND_BEHIND = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN", b"<?xml", b"<")


@dataclass(frozen=True)
class PcmPart:
    """One recording within a file of samples."""

    begin: int  # bytes: where its header begins
    data: int  # bytes: where its samples begin
    end: int  # bytes: where its samples end
    promised: int  # bytes of samples that the header promises, 0 if it does not know
    header: bytes = b""  # in place of its own, where that is not true
    low_bits: bool = False  # 24 bits in the lower part of 32, which are read as 32

    @property
    def cut(self) -> bool:
        return self.promised > self.end - self.data


def is_pcm(head: bytes) -> bool:
    """Tell whether the first 64 bytes of a file are those of one of these kinds."""
    return any(fits(head) for fits, _ in _READERS)


def pcm_parts(file: BinaryIO, size: int) -> list[PcmPart]:
    """Return the recordings in a file of samples, in order; none if it is no such file, or has no samples."""
    parts: list[PcmPart] = []
    begin = 0
    while begin < size and len(parts) < MOST_PARTS:
        file.seek(begin)
        head = file.read(64)
        reader = next((read for fits, read in _READERS if fits(head)), None)
        found = reader(file, begin, size) if reader else None
        if found is None:
            break
        part, begin = found
        parts.append(part)
    return parts


def opened(file: BinaryIO, part: PcmPart) -> "_Mended":
    """Open a part as a file of its own, with a header that is true."""
    header = part.header
    if not header:
        file.seek(part.begin)
        header = file.read(part.data - part.begin)
    return _Mended(file, header, part.data, part.end)


class _Mended(io.RawIOBase):
    """A header in front of a stretch of a file."""

    def __init__(self, file: BinaryIO, header: bytes, begin: int, end: int) -> None:
        self._file, self._header, self._begin, self._at = file, header, begin, 0
        self._size = len(header) + end - begin

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        size = self._size - self._at if size < 0 else min(size, self._size - self._at)
        data = self._header[self._at : self._at + size]
        if size > len(data):
            self._file.seek(self._begin + self._at + len(data) - len(self._header))
            data += self._file.read(size - len(data)) or b""
        self._at += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence] + offset)
        return self._at

    def tell(self) -> int:
        return self._at


# --- RIFF ------------------------------------------------------------------------------------------------------------
Found = tuple[PcmPart, int] | None  # a part, and where the next one may begin


@dataclass
class _Chunk:
    name: bytes
    body: int
    length: int
    unpadded: bool  # the chunk before has an odd length, and no byte behind it


def _chunks(file: BinaryIO, position: int, size: int, order: str) -> Iterator[_Chunk]:
    """Walk chunks of a 4-byte name and length, also where one of odd length lacks its pad byte."""
    odd = False
    for _ in range(MOST_CHUNKS):
        file.seek(position - odd)
        head = file.read(8 + odd)
        if len(head) < 8:
            return
        missing = odd and _is_name(head[:4])  # a pad byte is zero
        name = head[:8] if missing else head[odd : odd + 8]
        if len(name) < 8 or not _is_name(name[:4]):
            return
        position -= missing
        length = int.from_bytes(name[4:], order)  # type: ignore[arg-type]
        yield _Chunk(name[:4], position + 8, length, bool(missing))
        odd = bool(length & 1)
        position += 8 + length + odd
        if position - odd > size:
            return


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(32 <= byte < 127 for byte in name) and name[:1] != b" "


def _wav(file: BinaryIO, begin: int, size: int) -> Found:
    file.seek(begin)
    head = file.read(12)
    order = "big" if head[:4] == b"RIFX" else "little"
    whole = int.from_bytes(head[4:8], order)  # type: ignore[arg-type]
    form, big, mended = b"", 0, False
    for chunk in _chunks(file, begin + 12, size, order):
        mended |= chunk.unpadded
        if chunk.name == b"ds64":
            file.seek(chunk.body + 8)
            big = int.from_bytes(file.read(8), "little")
        elif chunk.name == b"fmt ":
            file.seek(chunk.body)
            form = file.read(min(chunk.length, 4096))
        elif chunk.name == b"data" and form:
            promised = big if chunk.length == 0xFFFF_FFFF and head[:4] != b"RIFF" else chunk.length
            return _wav_data(file, begin, size, head, order, whole, form, chunk.body, promised, mended)
    return None


def _wav_data(
    file: BinaryIO, begin: int, size: int, head: bytes, order: str, whole: int, form: bytes, data: int, promised: int,
    mended: bool,
) -> Found:  # fmt: skip
    closed = begin + 8 + whole in (size, size - 1, size + 1)  # the size of the whole was written at the end
    unknown = promised >= UNKNOWN and data + promised > size or (promised == 0 and not closed)
    end = min(size, data + promised) if not unknown else size
    following = end
    if unknown:
        again = find_bytes(file, b"WAVEfmt ", data, size) - 8
        file.seek(max(0, again))
        if again > data and file.read(4) in (b"RIFF", b"RF64"):
            end = following = again
    elif end < size:
        following = _behind(file, end + promised % 2, size, order)
        if following < 0:  # neither chunks nor another file: the header says too little
            end = following = size
            unknown = True
    low_bits = _is_arecord(form, order) and _upper_byte_unused(file, data, end, order)
    header = b""
    if unknown or mended or begin:
        length = min(end - data, 0xFFFF_FFFF - len(form) - 64)
        body = b"WAVEfmt " + len(form).to_bytes(4, order) + form + b"\0" * (len(form) % 2)  # type: ignore[arg-type]
        body += b"data" + length.to_bytes(4, order)  # type: ignore[arg-type]
        first = b"RIFX" if head[:4] == b"RIFX" else b"RIFF"
        header = first + (len(body) + length).to_bytes(4, order) + body  # type: ignore[arg-type]
    return PcmPart(begin, data, end, 0 if unknown else promised, header, low_bits), following


def _behind(file: BinaryIO, position: int, size: int, order: str) -> int:
    """Find where another recording begins behind the samples: `size` if nowhere, -1 if it looks like samples."""
    last = position
    for chunk in _chunks(file, position, size, order):
        if chunk.name in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
            return chunk.body - 8
        if chunk.body + chunk.length > size + 1:
            break
        last = chunk.body + chunk.length
    file.seek(last)
    rest = file.read(4096)
    harmless = size - last < 4096 or not rest.strip(b"\0") or rest.lstrip(b"\0").startswith(NO_SOUND_BEHIND)
    return size if harmless or last > position else -1


def find_bytes(file: BinaryIO, pattern: bytes, position: int, size: int) -> int:
    """Find where a pattern begins at or behind a position; a negative number if nowhere."""
    file.seek(position)
    kept = b""
    while block := file.read(1 << 20):
        where = (kept + block).find(pattern)
        if where >= 0:
            return position - len(kept) + where
        position += len(block)
        kept = (kept + block)[1 - len(pattern) :]
    return -1


def _is_arecord(form: bytes, order: str) -> bool:
    """24 bits in frames of 32, which arecord calls S24_LE and writes as plain PCM."""
    numbers = [int.from_bytes(form[at : at + 2], order) for at in (0, 2, 12, 14)]  # type: ignore[arg-type]
    kind, channels, frame, bits = numbers
    return kind == 1 and bits == 24 and channels > 0 and frame == 4 * channels


def _upper_byte_unused(file: BinaryIO, data: int, end: int, order: str) -> bool:
    file.seek(data)
    words = file.read(min(1 << 20, end - data) // 4 * 4)
    upper, next_ = (words[3::4], words[2::4]) if order == "little" else (words[::4], words[1::4])
    extended = sum(high == (255 if low & 128 else 0) or high == 0 for high, low in zip(upper, next_, strict=True))
    return bool(words) and extended == len(upper)


# --- others ----------------------------------------------------------------------------------------------------------
def _aiff(file: BinaryIO, begin: int, size: int) -> Found:
    frames_at, frame = 0, 0
    for chunk in _chunks(file, begin + 12, size, "big"):
        if chunk.name == b"COMM":
            file.seek(chunk.body)
            common = file.read(8)
            frames_at = chunk.body + 2
            frame = int.from_bytes(common[:2], "big") * -(-int.from_bytes(common[6:8], "big") // 8)
        elif chunk.name == b"SSND":
            data, promised = chunk.body + 8, max(0, chunk.length - 8)
            unknown = chunk.length == 0 or (promised >= UNKNOWN and data + promised > size)
            end = size if unknown else min(size, data + promised)
            header = b""
            if (unknown or begin) and frames_at and frame and data - begin < LONGEST_HEAD:
                header = _patched(
                    file, begin, data,
                    {frames_at: (end - data) // frame, chunk.body - 4: end - data + 8, begin + 4: end - begin - 8},
                )  # fmt: skip
            following = size if unknown else _behind(file, end + promised % 2, size, "big")
            return PcmPart(begin, data, end, 0 if unknown else promised, header), max(end, following)
    return None


def _patched(file: BinaryIO, begin: int, end: int, numbers: dict[int, int]) -> bytes:
    """Read the bytes from `begin` to `end`, and write some numbers of 32 bits, big-endian, over them."""
    file.seek(begin)
    header = bytearray(file.read(end - begin))
    for at, number in numbers.items():
        header[at - begin : at - begin + 4] = min(number, 0xFFFF_FFFF).to_bytes(4, "big")
    return bytes(header)


def _au(file: BinaryIO, begin: int, size: int) -> Found:
    file.seek(begin)
    head = file.read(24)
    order = "little" if head[:4] == b"dns." else "big"
    offset, promised = (int.from_bytes(head[at : at + 4], order) for at in (4, 8))  # type: ignore[arg-type]
    if not 24 <= offset < min(LONGEST_HEAD, size - begin):
        return None
    data = begin + offset
    unknown = promised == 0 or (promised >= UNKNOWN and data + promised > size)
    end = size if unknown else min(size, data + promised)
    file.seek(begin)
    header = file.read(offset)
    header = header[:8] + min(end - data, 0xFFFF_FFFE).to_bytes(4, order) + header[12:]  # type: ignore[arg-type]
    file.seek(end)
    again = file.read(4) in (b".snd", b"dns.")
    mend = unknown and promised != 0xFFFF_FFFF or begin or again
    return PcmPart(begin, data, end, 0 if unknown else promised, header if mend else b""), end if again else size


def _caf(file: BinaryIO, begin: int, size: int) -> Found:
    position = begin + 8
    for _ in range(MOST_CHUNKS):
        file.seek(position)
        head = file.read(12)
        if len(head) < 12:
            return None
        length = int.from_bytes(head[4:], "big", signed=True)
        if head[:4] == b"data":
            data, unknown = position + 16, length <= 0  # behind a count of edits
            promised = 0 if unknown else length - 4
            end = size if unknown else min(size, data + promised)
            header = b""
            if length == 0 and data - begin < LONGEST_HEAD:
                file.seek(begin)
                header = file.read(data - begin)
                header = header[: position + 4 - begin] + (end - position - 12).to_bytes(8, "big") + header[-4:]
            return PcmPart(begin, data, end, promised, header), size
        if length < 0:
            return None
        position += 12 + length
    return None


def _w64(file: BinaryIO, begin: int, size: int) -> Found:
    position = begin + 40
    for _ in range(MOST_CHUNKS):
        file.seek(position)
        head = file.read(24)
        if len(head) < 24:
            return None
        length = int.from_bytes(head[16:], "little")
        if head[:16] == W64_DATA:
            data = position + 24
            unknown = length <= 24 or length >= 1 << 60
            end = size if unknown else min(size, position + length)
            header = b""
            if unknown and data - begin < LONGEST_HEAD:
                file.seek(begin)
                header = file.read(data - begin)
                header = header[:16] + (end - begin).to_bytes(8, "little") + header[24:-8]
                header += (end - position).to_bytes(8, "little")
            return PcmPart(begin, data, end, 0 if unknown else length - 24, header), size
        if length < 24:
            return None
        position += (length + 7) // 8 * 8
    return None


_READERS = (
    (lambda head: head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE", _wav),
    (lambda head: head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"), _aiff),
    (lambda head: head[:4] in (b".snd", b"dns."), _au),
    (lambda head: head[:4] == b"caff", _caf),
    (lambda head: head[:16] == W64_RIFF, _w64),
)
