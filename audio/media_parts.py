"""Find the parts of a media file by its own marks, and what each part promises.

Some programs append one recording to another; decoders then stop at the end of the first, or fail at the border. Here
a file is walked through without decoding: where parts begin, how long each claims to be, and whether its last unit
is whole. Uses the standard library only.

Sources: RFC 3533 (Ogg), RFC 7845 (Opus in Ogg), RFC 9559 (Matroska), RFC 9639 (FLAC), ISO 14496-12 (mp4 boxes),
ISO 11172-3 (MPEG audio), ISO 13818-1 (transport and program streams).
"""

import mmap
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

FLAC_BEGINS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")  # magic, then the header of STREAMINFO
ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
EBML = b"\x1aE\xdf\xa3"
SEGMENT = b"\x18S\x80g"
MOST_PARTS = 10_000
WALKED_AT_ONCE = 1 << 18  # bytes

_MPEG_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # Hz by version
_KBITS = {  # by (version 1, layer); layer 3 is coded as 1, layer 2 as 2
    (True, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (False, 1): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Part:
    """A stretch of a file that can be decoded by itself."""

    begin: int  # bytes
    end: int
    seconds: float | None = None  # as the part's own header promises
    last_time: float | None = None  # seconds on the part's clock at which its sound ends
    cut: bool = False  # its last unit is not whole, or more must follow
    flaws: int = 0  # units whose checksum is wrong, or that are missing in between


def find_parts(file: BinaryIO, size: int) -> list[Part]:
    """Return the parts of a file, in order; one that covers all of it where nothing else is known."""
    whole = [Part(0, size)]
    if size < 16:
        return whole
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for fits, walk in _WALKS:
            if fits(data):
                parts = walk(data, size)
                return parts if 0 < len(parts) <= MOST_PARTS else whole
    return whole


def _split(begins: list[int], size: int) -> list[Part]:
    ends = [*begins[1:], size]
    return [Part(begin, end) for begin, end in zip(begins, ends, strict=True)]


def _all(data: mmap.mmap, pattern: bytes, start: int = 0) -> Iterator[int]:
    where = data.find(pattern, start)
    while where >= 0:
        yield where
        where = data.find(pattern, where + 1)


# --- Ogg -------------------------------------------------------------------------------------------------------------
def ogg_checksum(page: bytes) -> int:
    """CRC-32 of an Ogg page whose checksum field is zero: zlib's polynomial with all bits the other way round."""
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int(f"{mirrored:032b}"[::-1], 2)


@dataclass
class _Link:
    """A link of a chained Ogg file while its pages pass by."""

    begin: int
    end: int = 0
    sound: dict[int, tuple[float, int]] | None = None  # serial -> rate of its granules in Hz, samples before time 0
    open: set[int] | None = None  # serials without an end mark
    cut: bool = False
    flaws: int = 0
    last_time: float | None = None

    def part(self) -> Part:
        # without an end mark alone the part is whole, even if its last page ends within a packet: programs that stream,
        # and older ones, leave files like this
        return Part(self.begin, self.end, None, self.last_time, self.cut, self.flaws)


def _granules(packet: bytes) -> tuple[float, int] | None:
    """Return the rate that granule positions of a stream count in, and what is skipped in front; None: not known."""
    if packet[:8] == b"OpusHead" and len(packet) >= 19:
        return 48_000, int.from_bytes(packet[10:12], "little")
    if packet[:7] == b"\x01vorbis" and len(packet) >= 30:
        return int.from_bytes(packet[12:16], "little") or 1, 0
    return None


def _ogg(data: mmap.mmap, size: int) -> list[Part]:
    links: list[_Link] = []
    sequence: dict[int, int] = {}
    position, in_heads = 0, False
    while position < size:
        if data[position : position + 4] != b"OggS":
            following = data.find(b"OggS", position)
            if links:
                rest = data[position : following if following >= 0 else size]
                silent = not any(rest[:65_536].strip(b"\0"))
                if following >= 0:
                    links[-1].flaws += 1
                elif links[-1].open and silent and len(rest) > 64:
                    links[-1].cut = True  # zeros in place of the rest, as a copy that was interrupted leaves
            if following < 0:
                break
            position = following
        head = data[position : position + 27]
        segments = data[position + 27 : position + 27 + (head[26] if len(head) == 27 else 0)]
        length = 27 + len(segments) + sum(segments)
        if len(head) < 27 or len(segments) < head[26] or position + length > size:
            if links:
                links[-1].cut, links[-1].end = True, size
            break
        first, last = head[5] & 2, head[5] & 4
        if first and not in_heads:
            links.append(_Link(position, sound={}, open=set()))
            sequence.clear()
        in_heads = bool(first)
        if links:
            _ogg_page(links[-1], data[position : position + length], segments, bool(first), bool(last), sequence)
            links[-1].end = position + length
        position += length
    return [link.part() for link in links]


def _ogg_page(link: _Link, page: bytes, segments: bytes, first: bool, last: bool, sequence: dict[int, int]) -> None:
    assert link.sound is not None and link.open is not None
    serial, number = int.from_bytes(page[14:18], "little"), int.from_bytes(page[18:22], "little")
    if ogg_checksum(page[:22] + bytes(4) + page[26:]) != int.from_bytes(page[22:26], "little") or (
        serial in sequence and number > sequence[serial] + 1
    ):
        link.flaws += 1
    sequence[serial] = number
    if first:
        link.open.add(serial)
        if granules := _granules(page[27 + len(segments) :]):
            link.sound[serial] = granules
    if last:
        link.open.discard(serial)
    granule = int.from_bytes(page[6:14], "little", signed=True)
    if len(link.sound) == 1 and serial in link.sound and granule > 0:
        rate, before = link.sound[serial]
        link.last_time = (granule - before) / rate


def is_simple_ogg(file: BinaryIO, size: int) -> bool:
    """Tell whether an Ogg file is one stream, with an end mark unless it is Vorbis, and with nothing behind.

    libsndfile refuses Opus without an end mark.
    """
    position, last, begin, data, vorbis = 0, 0, 0, b"", False
    while position < size:
        if position + 282 > begin + len(data) and begin + len(data) < size:
            file.seek(position)
            begin, data = position, file.read(WALKED_AT_ONCE)
        head = data[position - begin : position - begin + 282]
        if len(head) < 28 or head[:4] != b"OggS" or last or (position == 0) != bool(head[5] & 2):
            return False
        vorbis = vorbis or head[28:35] == b"\x01vorbis"
        last = head[5] & 4
        position += 27 + head[26] + sum(head[27 : 27 + head[26]])
    return bool(last or vorbis) and position == size


# --- MPEG audio ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class MpegFrame:
    """The four bytes at the beginning of a frame of MPEG audio."""

    rate: int  # Hz
    samples: int
    length: int  # bytes
    side: int  # bytes of side information, layer 3

    @classmethod
    def read(cls, head: bytes) -> "MpegFrame | None":
        """Read a frame's head; None if it is none of layer 2 or 3."""
        if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
            return None
        version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
        kbits, rate, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
        if version == 1 or layer not in (1, 2) or kbits in (0, 15) or rate == 3:
            return None
        hertz, first = _MPEG_RATES[version][rate], version == 3
        samples = 1152 if layer == 2 or first else 576
        length = samples // 8 * 1000 * _KBITS[first, layer][kbits - 1] // hertz + padding
        mono = head[3] >> 6 == 3
        side = (17 if mono else 32) if first else (9 if mono else 17)
        return cls(hertz, samples, length, side)


def id3_length(data: mmap.mmap | bytes, position: int) -> int:
    """Bytes of an ID3v2 tag at a position, 0 if there is none."""
    head = data[position : position + 10]
    if len(head) < 10 or head[:3] != b"ID3" or head[3] > 4 or head[5] & 0x0F or max(head[6:10]) > 127:
        return 0
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    return 10 + size + (10 if head[5] & 0x10 else 0)


def _mpeg_tag(data: mmap.mmap, position: int) -> float | None:
    """Return the seconds that the frame at a position promises, if it is a tag (Xing, Info or VBRI) and no sound."""
    frame = MpegFrame.read(data[position : position + 4])
    if frame is None:
        return None
    where = position + 4 + frame.side
    if data[where : where + 4] in (b"Xing", b"Info"):
        flags = int.from_bytes(data[where + 4 : where + 8], "big")
        frames = int.from_bytes(data[where + 8 : where + 12], "big") if flags & 1 else 0
        after = where + 8 + 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
        pads = data[after + 21 : after + 24]
        skipped = (pads[0] << 4 | pads[1] >> 4) + ((pads[1] & 15) << 8 | pads[2]) if any(pads) else 0
        return max(0, frames * frame.samples - skipped) / frame.rate
    if data[position + 36 : position + 40] == b"VBRI":
        return int.from_bytes(data[position + 50 : position + 54], "big") * frame.samples / frame.rate
    return None


def _mpeg_begins(data: mmap.mmap) -> Iterator[int]:
    """Find where a recording of MPEG audio may begin: at an ID3v2 tag that a frame follows, and at a Xing frame."""
    covered = set()
    for where in _all(data, b"ID3"):
        follows = where + id3_length(data, where)
        if follows > where and MpegFrame.read(data[follows : follows + 4]):
            covered.add(follows)
            yield where
    for tag in (b"Xing", b"Info", b"VBRI"):
        for where in _all(data, tag):
            for back in (36, 21, 13) if tag != b"VBRI" else (36,):
                begin = where - back
                if begin >= 0 and begin not in covered and _mpeg_tag(data, begin) is not None:
                    yield begin


def _mpeg(data: mmap.mmap, size: int) -> list[Part]:
    begins = sorted({0, *(begin for begin in _mpeg_begins(data))})
    if len(begins) > 1 and begins[1] <= id3_length(data, 0):  # behind one tag, or inside of it
        begins = [begin for begin in begins if begin == 0 or begin > id3_length(data, 0)]
    parts = []
    for part in _split(begins, size):
        seconds = _mpeg_tag(data, part.begin + id3_length(data, part.begin))
        parts.append(replace(part, seconds=seconds or None))
    return parts


def is_simple_mpeg(file: BinaryIO, size: int) -> bool:
    """Tell whether a file of MPEG audio begins with a tag that is true: of how many bytes it has, and what to drop."""
    file.seek(0)
    head = file.read(4096)
    begin = id3_length(head, 0)
    if begin:
        file.seek(begin)
        head = file.read(4096)
    frame = MpegFrame.read(head[:4])
    if frame is None or head[4 + frame.side : 8 + frame.side] not in (b"Xing", b"Info"):
        return False
    where = 8 + frame.side
    if int.from_bytes(head[where : where + 4], "big") & 3 != 3:
        return False
    length, pads = int.from_bytes(head[where + 8 : where + 12], "big"), head[where + 12 :]
    flags = int.from_bytes(head[where : where + 4], "big")
    after = 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
    file.seek(max(0, size - 128))
    behind = size - begin - length - (128 if file.read(3) == b"TAG" else 0)
    return any(pads[after + 21 : after + 24]) and 0 <= behind <= frame.length


# --- others ----------------------------------------------------------------------------------------------------------
def _flac(data: mmap.mmap, size: int) -> list[Part]:
    begins = sorted({0, *(where for magic in FLAC_BEGINS for where in _all(data, magic))})
    if id3_length(data, 0) in begins[1:2]:
        begins.pop(1)
    return _split(begins, size)


def _mp4(data: mmap.mmap, size: int) -> list[Part]:
    """Split at the top level, where a second `ftyp` begins another recording once there has been a `moov`."""
    position, begins, had_moov, cut = 0, [0], False, False
    while position + 8 <= size:
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        if length == 1:
            length = int.from_bytes(data[position + 8 : position + 16], "big")
        if kind == b"ftyp" and had_moov:
            begins.append(position)
            had_moov = False
        had_moov |= kind == b"moov"
        if length == 0 or not kind.strip(b"\0"):
            break
        cut = position + length > size and kind in (b"mdat", b"moof", b"moov")
        position += max(8, length)
    parts = _split(begins, size)
    return [*parts[:-1], replace(parts[-1], cut=cut)]


def _vint(data: mmap.mmap, position: int) -> tuple[int | None, int]:
    """Read a size as Matroska writes it, and its own length; None if the size is not known."""
    first = data[position]
    length = 9 - first.bit_length()
    value = int.from_bytes(data[position : position + length], "big") & ((1 << 7 * length) - 1)
    return (None if value == (1 << 7 * length) - 1 else value), length


def _matroska(data: mmap.mmap, size: int) -> list[Part]:
    begins = [
        where
        for where in _all(data, EBML)
        if b"webm" in data[where : where + 64] or b"matroska" in data[where : where + 64]
    ]
    parts = []
    for part in _split(sorted({0, *begins}), size):
        segment, cut = data.find(SEGMENT, part.begin, part.begin + 4096), False
        if 0 <= segment < part.end - 12:
            length, width = _vint(data, segment + 4)
            cut = length is not None and segment + 4 + width + length > part.end
        parts.append(replace(part, cut=cut))
    return parts


def _asf(data: mmap.mmap, size: int) -> list[Part]:
    parts = []
    for part in _split(sorted({0, *_all(data, ASF_HEADER)}), size):
        where, cut = data.find(ASF_DATA, part.begin, part.end), False
        if where >= 0:
            length = int.from_bytes(data[where + 16 : where + 24], "little")
            cut = 50 < length < 1 << 62 and where + length > part.end
        parts.append(replace(part, cut=cut))
    return parts


def _avi(data: mmap.mmap, size: int) -> list[Part]:
    position, begins, cut = 0, [0], False
    while data[position : position + 4] == b"RIFF":
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        if position and data[position + 8 : position + 12] == b"AVI ":
            begins.append(position)
        cut = position + 8 + length > size
        if length < 12:  # never written
            break
        position += 8 + length + length % 2
    parts = _split(begins, size)
    return [*parts[:-1], replace(parts[-1], cut=cut)]


def _wavpack(data: mmap.mmap, size: int) -> list[Part]:
    position, begins = 0, [0]
    while (position := data.find(b"wvpk", position)) >= 0:  # behind a tag, too
        index, samples = data[position + 16 : position + 20], data[position + 20 : position + 24]
        initial = data[position + 24 : position + 28]
        # blocks of further channels have the index of the first one, but lack the bit that marks an initial block
        if position and not any(index) and any(samples) and len(initial) == 4 and initial[1] & 0x08:
            begins.append(position)
        position += 8 + min(int.from_bytes(data[position + 4 : position + 8], "little"), 1 << 24)
    return _split(begins, size)


def _transport(data: mmap.mmap, size: int) -> list[Part]:
    step = 188 if data[188:189] == b"G" else 192
    return [Part(0, size, cut=size % step != 0)]


def _program(data: mmap.mmap, size: int) -> list[Part]:
    in_sectors = data[2048:2052] == data[:4] == data[4096:4100]
    return [Part(0, size, cut=in_sectors and size % 2048 != 0)]


def _begins(*magics: bytes) -> Callable[[mmap.mmap], bool]:
    return lambda data: data[: max(map(len, magics))].startswith(magics)


def _at_magics(*magics: bytes) -> Callable[[mmap.mmap, int], list[Part]]:
    return lambda data, size: _split(sorted({0, *(at for magic in magics for at in _all(data, magic))}), size)


def _is_flac(data: mmap.mmap) -> bool:
    skipped = id3_length(data, 0)
    return data[skipped : skipped + 4] == b"fLaC"


def _is_mpeg(data: mmap.mmap) -> bool:
    skipped = id3_length(data, 0)
    return MpegFrame.read(data[skipped : skipped + 4]) is not None


_WALKS: tuple[tuple[Callable[[mmap.mmap], bool], Callable[[mmap.mmap, int], list[Part]]], ...] = (
    (_begins(b"OggS"), _ogg),
    (_is_flac, _flac),
    (_is_mpeg, _mpeg),
    (lambda data: data[4:8] == b"ftyp", _mp4),
    (_begins(EBML), _matroska),
    (_begins(ASF_HEADER), _asf),
    (lambda data: data[:4] == b"RIFF" and data[8:12] == b"AVI ", _avi),
    (_begins(b"wvpk"), _wavpack),
    (_begins(b"#!AMR\n"), _at_magics(b"#!AMR\n")),
    (_begins(b"#!AMR-WB\n"), _at_magics(b"#!AMR-WB\n")),
    (_begins(b"FLV\x01"), _at_magics(b"FLV\x01\x01\0\0\0\x09", b"FLV\x01\x04\0\0\0\x09", b"FLV\x01\x05\0\0\0\x09")),
    (lambda data: data[:1] == b"G" and data[188:189] == b"G" == data[376:377], _transport),
    (lambda data: data[4:5] == b"G" and data[196:197] == b"G" == data[388:389], _transport),
    (_begins(b"\0\0\x01\xba"), _program),
)
