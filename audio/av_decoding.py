"""Decode a media file by the times that it gives, with PyAV. Runs in the decoder's process only.

FFmpeg's demuxers and decoders do the work; what they leave to the caller is done here: to begin again where another
recording was appended, to fill gaps with silence, to drop what an encoder put in front, to choose among several
sound streams, and to tell whether all was there.
"""

import errno
import json
import math
import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.codec.context import Flags2
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition

from .decoder_messages import BLOCK, END, FACTS
from .media_parts import Part, find_parts

FORMATS = (  # no playlists, no concatenations: they open other files
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,iff,loas,matroska,webm,mlp,mov,mp3,mpc,mpc8,mpeg,"
    "mpegts,mxf,ogg,oma,qcp,rm,tak,truehd,tta,voc,w64,wav,wtv,wv,xwma"
)
OPTIONS = {"protocol_whitelist": "none", "format_whitelist": FORMATS}
HEADERLESS = {".gsm": "gsm"}  # chosen by the name where the content fits nothing

JITTER = 0.05  # seconds by which a frame's time may differ from the end of the last frame
LONGEST_GAP = 600.0  # seconds of silence put in at once; a longer jump is reported instead
GAP_SAMPLES = 1 << 30  # of all channels, in all gaps of a file
HELD = 1 << 21  # samples that are decoded before the first are given: changes of rate and channels show up there
QUIET = 2.0**-15  # the smallest step of 16 bits: what stays below, at the end, is an encoder's padding
SILENT = 1e-4  # -80 dBFS: a stream that never exceeds it is not chosen if there is another one
LONGEST_CLAIM = 36_000.0  # seconds; a header that promises more is believed only if there are the bytes for it
LONGEST_PACKET = 0.25  # seconds
ROUGHLY = 0.3  # seconds by which the length in a matroska or flv header may exceed the sound: delay, padding

# demuxers whose times are those of the recording; others count samples, or bytes
WITH_TIMES = {"ogg", "matroska", "mov", "mpegts", "mpeg", "asf", "flv", "mxf", "wtv"}
# demuxers whose stream.duration is what the header says, or the sum of a table of all samples
WITH_LENGTH = {"flac", "mov", "tta", "wv", "ape", "aiff", "dsf", "caf", "w64", "tak", "mpc", "mpc8", "voc"}
MARKS_CUT = {"mpegts", "mpeg", "flv", "avi", "asf", "mov", "matroska"}  # in which a packet that is not whole is marked
# what the matroska demuxer says where it loses sound
LOSSES = ("File ended prematurely", "Read error", "invalid as first byte", "exceeds", "Invalid EBML", "Invalid length")
# samples of silence that an encoder puts in front, which the decoder gives back, where no header says how many
PRIMING = {"aac": 1024, "aac_latm": 1024, "mp3": 1105, "mp3float": 1105, "mp2": 481, "mp2float": 481}
PRIMING |= {"ac3": 256, "eac3": 256, "dca": 512}
OPUS_RATES = (8000, 12_000, 16_000, 24_000, 48_000)  # Hz, at which Opus codes
# Windows Media Audio: FFmpeg drops two frames, one more than encoders put in front; told not to, it drops none
WMA = ("wmav1", "wmav2")
# before PyAV 19, a title that is not UTF-8 was an error
_ANY_TEXT: dict[str, Any] = {} if int(av.__version__.partition(".")[0]) > 18 else {"metadata_encoding": "latin-1"}


class NoSound(ValueError):
    """The file can be read, and has no stream of sound that can be decoded."""


class Window:
    """A stretch of a file as a file of its own. Has no name, since a name would choose the demuxer."""

    def __init__(self, file: BinaryIO, begin: int, end: int) -> None:
        self._file, self._begin, self._size, self._at = file, begin, end - begin, 0

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        if not left:  # damaged files ask for any place
            return b""
        self._file.seek(self._begin + self._at)
        data = self._file.read(left if size < 0 else min(size, left))
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def tell(self) -> int:
        return self._at


@dataclass
class Story:
    """Facts about a file, collected while it is decoded."""

    seconds: float = 0.0  # decoded, with the gaps that were filled
    length: float = 0.0  # seconds, of all streams, as the header of the first part says or estimates
    promised: float = 0.0  # by the headers; of parts that promise nothing, what they gave
    cut: bool = False
    notes: list[str] = field(default_factory=list)
    gap_samples: int = 0
    stream: int = 0  # index among the sound streams of the one that is read
    streams: int = 0
    chosen: bool = False
    codec: str = ""
    container: str = ""
    clips: bool = True  # False: floating point, which has no loudest value
    recorded_rate: float = 0.0  # Hz, the highest of all parts before they were coded; infinite where no header says

    def note(self, text: str) -> None:
        if text and text not in self.notes:
            self.notes.append(text)


Stretch = tuple[int, np.ndarray]  # sample rate in Hz, samples [T, channels]
Answer = tuple[bytes, int, int, Any]  # kind, sample rate, channels, bytes


def decode(path: str, block: int) -> Iterator[Answer]:
    """Yield facts, blocks of at most `block` samples of all channels at one rate each, and how it ended.

    Raises:
        OSError: the file cannot be opened.
        av.FFmpegError, NoSound: it cannot be decoded.
    """
    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise NoSound("not a regular file")
        story = Story()
        stretches = _parts(file, status.st_size, os.path.splitext(path)[1].lower(), story)
        yield from _answers(stretches, block, story)
    end = {"promised": story.promised, "cut": story.cut, "notes": story.notes}
    yield END, 0, 0, json.dumps(end).encode()


def _answers(stretches: Iterator[Stretch], block: int, story: Story) -> Iterator[Answer]:
    """Look ahead for the highest rate and for changing channels, then give facts and blocks."""
    held: list[Stretch] = []
    samples = 0
    for stretch in stretches:
        held.append(stretch)
        samples += stretch[1].size
        if samples > HELD:
            break
    if not held:
        raise NoSound("no sample of it can be decoded")
    # libsndfile gives Opus at the rate of the recording, too: above half of it a decoder leaves images of the voice
    rate = int(min(max(rate for rate, _ in held), story.recorded_rate))
    shapes = {sound.shape[1] for _, sound in held}
    channels = shapes.pop() if len(shapes) == 1 else 1
    facts = {"rate": rate, "channels": channels, "stream": story.stream, "streams": story.streams}
    facts |= {"codec": story.codec, "container": story.container, "clips": story.clips, "seconds": story.length}
    yield FACTS, rate, channels, json.dumps(facts).encode()
    step = max(1, block // channels)
    gathered = _Gathered(rate, channels)
    for now, sound in _chain(held, stretches):
        if sound.shape[1] != channels:
            sound = _with_channels(sound, channels)
        if now != gathered.rate or gathered.length + len(sound) > step:
            yield from gathered.given()
            gathered.rate = now
        for begin in range(0, len(sound), step):
            gathered.add(sound[begin : begin + step])
            if gathered.length == step:
                yield from gathered.given()
    yield from gathered.given()


class _Gathered:
    """Pieces of sound of one rate that wait to become a block."""

    def __init__(self, rate: int, channels: int) -> None:
        self.rate, self.channels, self.length, self._pieces = rate, channels, 0, list[np.ndarray]()

    def add(self, piece: np.ndarray) -> None:
        self._pieces.append(piece)
        self.length += len(piece)

    def given(self) -> Iterator[Answer]:
        if self._pieces:
            block = self._pieces[0] if len(self._pieces) == 1 else np.concatenate(self._pieces)
            self._pieces, self.length = [], 0
            yield BLOCK, self.rate, self.channels, np.ascontiguousarray(block).data.cast("B")


def _chain(held: list[Stretch], rest: Iterator[Stretch]) -> Iterator[Stretch]:
    held.reverse()
    while held:
        yield held.pop()
    yield from rest


def _with_channels(sound: np.ndarray, channels: int) -> np.ndarray:
    """Turn samples [T, any] into [T, channels] with the same mean of the channels."""
    if sound.shape[1] == channels:
        return sound
    mono = sound.mean(axis=1, dtype=np.float32, keepdims=True)
    return np.repeat(mono, channels, axis=1)


# --- parts and streams -----------------------------------------------------------------------------------------------
def _parts(file: BinaryIO, size: int, suffix: str, story: Story) -> Iterator[Stretch]:
    parts = find_parts(file, size)
    for number, part in enumerate(parts):
        try:
            yield from _part(file, part, suffix, story)
        except (av.FFmpegError, NoSound) as error:
            if getattr(error, "errno", None) == errno.ENOMEM or (number == len(parts) - 1 and not story.seconds):
                raise
            story.note(f"part {number + 1} of {len(parts)} cannot be read: {_reason(error)}")


def _open(file: BinaryIO, part: Part, suffix: str) -> InputContainer:
    try:
        return _container(file, part, None)
    except (av.InvalidDataError, av.ArgumentError) as error:
        if suffix in HEADERLESS:
            return _container(file, part, HEADERLESS[suffix])
        if isinstance(error, av.ArgumentError):  # its own name for a format that is not in the list
            raise NoSound("it is of a kind that is not read here") from None
        raise


def _container(file: BinaryIO, part: Part, name: str | None) -> InputContainer:
    options = OPTIONS | ({"format_whitelist": name} if name else {})
    # the window does not close the file, which is open for as long as the process decodes it
    return av.open(Window(file, part.begin, part.end), "r", format=name, options=options, **_ANY_TEXT)


def _candidates(container: InputContainer) -> list[int]:
    """Return the sound streams that have a decoder, as indices among the sound streams, the default one first."""
    sounds = [(index, one) for index, one in enumerate(container.streams.audio) if one.codec_context is not None]
    return [index for index, one in sorted(sounds, key=lambda pair: not pair[1].disposition & Disposition.default)]


def _choose(container: InputContainer, file: BinaryIO, part: Part, suffix: str, story: Story) -> int:
    """Choose the sound stream to read: the default one or the first, unless it is silent and another one is not."""
    candidates, story.streams = _candidates(container), len(container.streams.audio)
    if not candidates:
        raise NoSound("there is no sound in it")
    if len(candidates) > 1:
        for index in candidates:
            if _can_be_heard(file, part, suffix, index):
                return index
    return candidates[0]


def _can_be_heard(file: BinaryIO, part: Part, suffix: str, index: int) -> bool:
    try:
        heard = _part(file, part, suffix, Story(stream=index, chosen=True))
        return any(np.abs(sound).max(initial=0) > SILENT for _, sound in heard)
    except av.FFmpegError:
        return False


def _part(file: BinaryIO, part: Part, suffix: str, story: Story) -> Iterator[Stretch]:
    with av.logging.Capture() as log, _open(file, part, suffix) as container:
        if not story.chosen:
            story.stream, story.chosen = _choose(container, file, part, suffix, story), True
        sounds = container.streams.audio
        if story.stream >= len(sounds) or sounds[story.stream].codec_context is None:
            raise NoSound("there is no sound in it")
        track = _Track(container, sounds[story.stream], part, story)
        yield from track.stretches()
        track.conclude([text.strip() for _, _, text in log])


def _reason(error: Exception) -> str:
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return text[:1].lower() + text[1:]


# --- one stream of one part ------------------------------------------------------------------------------------------
class _Track:
    """Decodes one stream packet by packet, on a clock."""

    def __init__(self, container: InputContainer, stream: AudioStream, part: Part, story: Story) -> None:
        self.container, self.stream, self.part, self.story = container, stream, part, story
        self.format = container.format.name.partition(",")[0]
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        self.context = stream.codec_context
        self.context.thread_count = 1
        if self.context.name in WMA:
            self.context.flags2 |= Flags2.skip_manual
        self.timed = self.format in WITH_TIMES
        self.tick = float(stream.time_base or 0)  # seconds
        self.first: float | None = None  # seconds: time of the first sample
        self.clock = 0.0  # seconds: time of the next sample
        self.jumped = 0.0  # seconds by which the clock was set in either direction
        self.limit = part.last_time  # seconds: where the sound ends though packets go on
        self.packets = self.failed = self.failed_since = 0
        self.changed = -1  # the number of the packet at which another recording began
        self.begins: int | None = None  # pts of the first packet, in its time base: below 0 is what FFmpeg drops
        self.missing_at_end = 0.0
        self.broken = ""  # why the demuxer gave up
        self.corrupt = False  # the last packet is not whole
        self.to_skip = 0  # samples that are the encoder's
        self.padding = 0  # samples at the end that may be the encoder's
        self.dropped = 0.0  # seconds of them that were
        self.held: list[Stretch] = []  # what may lie beyond the end
        self.unpack = _Unpacker()
        story.codec, story.container = self.context.name, self.format
        story.clips = not self.context.name.startswith(("pcm_f32", "pcm_f64", "pcm_f16", "pcm_f24"))
        self.claimed = self._claimed()
        story.length = story.length or self.claimed or max(0.0, (container.duration or 0) / av.time_base)
        story.recorded_rate = max(story.recorded_rate, self._recorded_rate())

    def stretches(self) -> Iterator[Stretch]:
        """Yield what there is to hear, without what the encoder put in front and behind."""
        waiting: deque[Stretch] = deque()
        length = 0
        for stretch in self._decoded():
            if waiting and (waiting[0][0] != stretch[0] or waiting[0][1].shape[1] != stretch[1].shape[1]):
                yield from waiting
                waiting.clear()
                length = 0
            waiting.append(stretch)
            length += len(stretch[1])
            while waiting and length - len(waiting[0][1]) >= self.padding:
                length -= len(waiting[0][1])
                yield waiting.popleft()
        if waiting:
            yield from self._without_padding(list(waiting))

    def _without_padding(self, last: list[Stretch]) -> Iterator[Stretch]:
        """Drop the silence with which an encoder filled its last packet, where no header says how much it is."""
        rate, sound = last[0][0], np.concatenate([one for _, one in last])
        loud = np.flatnonzero(np.abs(sound[-self.padding :]).max(axis=1) >= QUIET)
        dropped = min(len(sound), self.padding) - (int(loud[-1]) + 1 if loud.size else 0)
        if not dropped and self.context.name.startswith("aac"):
            dropped = min(len(sound), self.padding) // 2  # as much as it is on average
        self.story.seconds -= dropped / rate
        self.dropped = dropped / rate
        if len(sound) > dropped:
            yield rate, sound[: len(sound) - dropped]

    def _decoded(self) -> Iterator[Stretch]:
        for packet in self._demuxed():
            self.packets += packet.size > 0
            self.begins = packet.pts if self.begins is None else self.begins
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                if error.errno == errno.ENOMEM:
                    raise
                yield from self._failure(packet)
                continue
            for frame in frames:
                if isinstance(frame, AudioFrame) and frame.samples:
                    yield from self._frame(frame, packet)
        yield from self._silence(self.missing_at_end)

    def _demuxed(self) -> Iterator[Packet]:
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError as error:
                if error.errno == errno.ENOMEM:
                    raise
                self.broken = _reason(error)
                return
            self.corrupt = packet.is_corrupt if packet.size else self.corrupt
            yield packet

    def _failure(self, packet: Packet) -> Iterator[Stretch]:
        """Count a packet that cannot be decoded; where no times tell of the hole, put in its silence."""
        pause = _is_pause(self.context.name, packet)
        if self.first is None:
            return  # a stream that was joined in the middle
        self.failed += not pause
        self.failed_since += not pause
        length = (packet.duration or 0) * self.tick
        if self.timed:
            # the next time shows the hole; if none comes, it is at the end
            end = packet.pts * self.tick + length if packet.pts is not None else self.clock
            self.missing_at_end = min(max(0.0, end - self.clock), LONGEST_GAP)
        else:
            yield from self._silence(min(length, LONGEST_PACKET))

    def _frame(self, frame: AudioFrame, packet: Packet) -> Iterator[Stretch]:
        pts = frame.pts
        if self.first is None:
            self.first = self.clock = (pts or 0) * self.tick
            if self.format in ("mov", "mp3") and self.claimed is not None:
                self.limit = max(0.0, self.first) + self.claimed
            self.to_skip = self._priming(frame, packet)
            if self.to_skip and self.limit is None and self.part.seconds is None:
                self.padding = frame.samples
        elif pts is not None and self.timed:
            late = pts * self.tick - self.clock
            if not -JITTER <= late <= JITTER:
                yield from self._set_clock(pts * self.tick)
        self.missing_at_end, self.failed_since = 0.0, 0
        before = (self.unpack.rate, self.unpack.channels)
        sound = self.unpack(frame)
        if self.format == "mp3" and before[0] > 0 and before != (self.unpack.rate, self.unpack.channels):
            self._another_encoder()
        if self.to_skip:
            dropped = min(self.to_skip, len(sound))
            self.to_skip -= dropped
            sound = sound[dropped:]
            self.clock += dropped / self.unpack.rate
            self.first += dropped / self.unpack.rate
        if len(sound):
            yield from self._give(self.unpack.rate, sound)

    def _another_encoder(self) -> None:
        """Drop the padding of one recording, and what was put in front of the next, which has no tag of its own.

        FFmpeg gives the first frame of the next with new channels and the old rate, so two changes may be one.
        """
        changed, self.changed = self.changed, self.packets
        if self.packets - changed == 1:
            return
        self.dropped += sum(len(sound) / rate for rate, sound in self.held)
        self.held.clear()
        self.limit, self.to_skip = None, PRIMING.get(self.context.name, 0)

    def _priming(self, frame: AudioFrame, packet: Packet) -> int:
        """Count the samples to drop in front: none if the file told FFmpeg, which then has dropped them."""
        codec, whole = self.context.name, self.context.frame_size or frame.samples
        if codec in WMA:
            return frame.samples
        if codec in ("opus", "libopus") and self.format != "ogg":
            return self._opus_priming(frame, packet)
        told = (self.begins or 0) < 0 or frame.pts not in (None, packet.pts) or frame.samples < whole
        if told or (self.format == "mp3" and (frame.pts or 0) > 0):
            return 0
        twice = codec.startswith("aac") and frame.samples == 2048  # spectral band replication
        return PRIMING.get(codec, 0) * (2 if twice else 1)

    def _recorded_rate(self) -> float:
        """Return the rate of an Opus recording before it was coded, as its header tells; infinity if it does not."""
        header = bytes(self.context.extradata or b"")
        rate = int.from_bytes(header[12:16], "little") if header[:8] == b"OpusHead" else 0
        return rate if rate in OPUS_RATES else math.inf

    def _opus_priming(self, frame: AudioFrame, packet: Packet) -> int:
        """Count what the Opus header says is to be dropped, less what FFmpeg has dropped, whose times are in ms."""
        header = bytes(self.context.extradata or b"")
        if header[:8] != b"OpusHead" or not packet.duration:
            return 0
        whole = round(packet.duration * self.tick * frame.sample_rate)
        return max(0, int.from_bytes(header[10:12], "little") - max(0, whole - frame.samples))

    def _set_clock(self, time: float) -> Iterator[Stretch]:
        late = time - self.clock
        if late > LONGEST_GAP:
            self.story.note(f"the times jump by {late:.0f} s after {self.story.seconds:.2f} s")
        elif late > 0:
            yield from self._silence(late)
            late = time - self.clock
        self.jumped += late
        self.clock = time

    def _silence(self, seconds: float) -> Iterator[Stretch]:
        if seconds <= 0 or not self.unpack.rate:
            return
        samples = round(seconds * self.unpack.rate)
        if self.story.gap_samples + samples * self.unpack.channels > GAP_SAMPLES:
            self.story.note(f"{seconds:.2f} s are missing after {self.story.seconds:.2f} s")
            return
        self.story.gap_samples += samples * self.unpack.channels
        step = 1 << 16
        for begin in range(0, samples, step):
            quiet = np.zeros((min(step, samples - begin), self.unpack.channels), np.float32)
            yield from self._give(self.unpack.rate, quiet)

    def _give(self, rate: int, sound: np.ndarray) -> Iterator[Stretch]:
        """Yield samples; hold back what lies beyond the end, which is padding if little follows."""
        begin, self.clock = self.clock, self.clock + len(sound) / rate
        beyond = -1.0 if self.limit is None else self.clock - self.limit
        if self.held and (beyond <= 0 or beyond >= LONGEST_PACKET):
            for held in self.held:
                self.story.seconds += len(held[1]) / held[0]
                yield held
            self.held.clear()
        if 0 < beyond < LONGEST_PACKET and self.limit is not None:
            inside = min(len(sound), max(0, round((self.limit - begin) * rate)))
            if inside < len(sound):
                self.held.append((rate, sound[inside:]))
            sound = sound[:inside]
        if len(sound):
            self.story.seconds += len(sound) / rate
            yield rate, sound

    # --- was it all? -------------------------------------------------------------------------------------------------
    def _claimed(self) -> float | None:
        """Seconds that the file's own header promises, None where it only estimates."""
        seconds: float | None = None
        if self.part.seconds is not None:
            seconds = self.part.seconds
        elif self.format in WITH_LENGTH and self.stream.duration and self.stream.time_base:
            seconds = float(self.stream.duration * self.stream.time_base)
        elif self.format in ("matroska", "flv") and len(self.container.streams) == 1 and self.container.duration:
            seconds = self.container.duration / av.time_base - ROUGHLY
        if seconds is None or seconds <= 0:
            return None
        size = self.part.end - self.part.begin
        return seconds if seconds < LONGEST_CLAIM or seconds < size / 100 else None  # 0.8 kbit/s is the least there is

    def conclude(self, log: list[str]) -> None:
        """Compare what came with what was promised."""
        heard = (self.clock - self.jumped) - (self.first or 0.0)
        promised = max(heard, self.claimed or 0.0)
        self.dropped += sum(len(sound) / rate for rate, sound in self.held)
        promised -= self.dropped
        if self.format == "wv" and self.part.begin:  # each part of it tells the length of all
            promised = heard
        self.story.promised += promised
        self.story.cut |= self.part.cut or (self.corrupt and self.format in MARKS_CUT)
        failed = self.failed - (self.failed_since if self.format == "mp3" else 0)  # tags at the end look like packets
        if failed:
            self.story.note(f"{failed} of {self.packets} packets cannot be decoded")
        if self.part.flaws:
            self.story.note(f"{self.part.flaws} page(s) damaged or missing")
        if self.broken:
            self.story.note(self.broken)
        if self.format == "matroska":
            for line in log:
                if any(loss in line for loss in LOSSES):
                    self.story.note(line.strip(" ."))


def _is_pause(codec: str, packet: Packet) -> bool:
    """Tell whether an AMR packet is a silence descriptor, or says that there is nothing: a pause, and no damage."""
    if not codec.startswith(("amr", "libopencore")) or not packet.size:
        return False
    kind = bytes(packet)[0] >> 3 & 15
    return kind >= 8 if "nb" in codec or "narrow" in codec else kind >= 9


class _Unpacker:
    """Turns frames of any sample format into float32 [T, channels]; integers are scaled to -1..1."""

    def __init__(self) -> None:
        self.rate = self.channels = 0
        self._key: tuple[str, str, int] | None = None
        self._resampler: av.AudioResampler | None = None
        self._direct = False

    def __call__(self, frame: AudioFrame) -> np.ndarray:
        form, layout = frame.format.name, frame.layout
        key = (form, layout.name, frame.sample_rate)
        if key != self._key:
            self._key, self.rate, self.channels = key, frame.sample_rate, layout.nb_channels
            # a new one for each kind of frame: one that had nothing to do at first passes on any other
            self._resampler = av.AudioResampler(format="flt", layout=layout, rate=frame.sample_rate)
            # PyAV counts the planes of a frame wrongly where there are eight or more
            self._direct = form == "fltp" and self.channels <= 2
        if self._direct:
            planes = [np.frombuffer(_bytes_of(plane), np.float32, frame.samples) for plane in frame.planes]
            return planes[0][:, None] if len(planes) == 1 else np.stack(planes, axis=1)
        assert self._resampler
        frame.pts = None
        pieces = [self._packed(one) for one in self._resampler.resample(frame)]
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.zeros((0, self.channels), np.float32), *pieces])

    def _packed(self, frame: AudioFrame) -> np.ndarray:
        return np.frombuffer(_bytes_of(frame.planes[0]), np.float32, count=frame.samples * self.channels).reshape(
            -1, self.channels
        )


def _bytes_of(plane: Any) -> memoryview:
    return memoryview(plane)
