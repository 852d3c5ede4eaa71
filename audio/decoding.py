"""Decode recordings block by block: libsndfile where a header is proven true, PyAV for all else.

The content of a file decides how it is read, not its name. A file may be hostile: PyAV works in a process of its own,
opens nothing but that one file (no network, no playlists), and has a time limit. No block holds more than READ_BLOCK
samples, whatever a header says about length or channels.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from .av_decoder import decoder_name, joined, open_with_av
from .media_parts import FLAC_BEGINS, MpegFrame, is_simple_mpeg, is_simple_ogg
from .pcm_files import PcmPart, find_bytes, is_pcm, opened, pcm_parts
from .sound import AudioError, NotAudio, Sound

MIN_SOURCE_RATE, MAX_SOURCE_RATE = 1_000, 1_000_000  # Hz
MAX_CHANNELS = 1024  # as libsndfile
READ_BLOCK = 1 << 18  # samples of all channels decoded at a time: 1 MB
LIBSNDFILE = "libsndfile"
IN_MEMORY = "array"  # in place of a decoder
UNKNOWN_FRAMES = 1 << 48  # from here the number means that a header does not say how many there are
UNNOTICED = 0.1  # seconds that may be missing
HEAD = 600  # bytes in which a signature is looked for: three packets of a transport stream
FLOATING = ("FLOAT", "DOUBLE")  # subtypes without a loudest value

_SUFFIXES = (
    ".3g2 .3ga .3gp .8svx .aa3 .aac .ac3 .adts .aif .aifc .aiff .alac .amr .ape .asf .au .avi .awb .bwf .caf .dff .dsf "
    ".dts .dtshd .eac3 .ec3 .evo .f4a .f4b .f4v .flac .flv .gsm .latm .loas .m1a .m2a .m2t .m2ts .m4a .m4b .m4p "
    ".m4r .m4v .mka .mkv .mlp .mov .mp1 .mp2 .mp2v .mp3 .mp4 .mpa .mpc .mpe .mpeg .mpg .mpga .mts .mxf .oga .ogg "
    ".ogv .ogx .oma .opus .qcp .qt .ra .raw .rf64 .rm .rmvb .snd .sph .spx .tak .thd .ts .tta .vob .voc "
    ".w64 .wav .wave .weba .webm .wma .wmv .wtv .wv .xwma"
)
SOUND_SUFFIXES = frozenset(_SUFFIXES.split())
SIGNATURES = (  # offset, first bytes of formats that hold sound
    *((0, magic) for magic in (b"fLaC", b"OggS", b"RF64", b"BW64", b".snd", b"caff", b"riff\x2e\x91", b"NIST_1A")),
    *((0, magic) for magic in (b"\x1aE\xdf\xa3", b"0&\xb2u\x8e\x66\xcf\x11", b"#!AMR", b"wvpk", b"MAC ", b"FLV\x01")),
    *((0, magic) for magic in (b"TTA1", b".RMF", b"\xff\xf1", b"\xff\xf9", b"\x0bw", b"Creative Voice", b"DSD ")),
    *((0, magic) for magic in (b"\0\0\x01\xba", b"FRM8", b"MPCK", b"MP+", b"tBaK", b"\x7f\xfe\x80\x01", b"DTSHDHDR")),
    (0, bytes.fromhex("060e2b34020501010d0102")),  # MXF
    *((8, magic) for magic in (b"WAVE", b"AVI ", b"AIFF", b"AIFC", b"8SVX", b"XWMA", b"QLCM")),
    (4, b"ftyp"),
)
LIBSNDFILE_ONLY = (b"Creative Voice", b"NIST_1A")
STILL_IMAGES = (b"heic", b"heix", b"mif1", b"msf1", b"avif")  # also ftyp


def sound_of(samples: np.ndarray, sample_rate: int | None) -> Sound:
    """Make a recording that is in memory look like one that is decoded.

    Args:
        samples: [T] or [T, channels]; floating point, of which 1.0 is full scale, or integers of 8, 16 or 32 bits,
            whose range is full scale (unsigned ones of 8 bits, as in wav files).
        sample_rate: Hz.

    Raises:
        AudioError: anything else.
    """
    samples = np.asarray(samples)
    if not isinstance(sample_rate, int | float | np.integer | np.floating) or not float(sample_rate).is_integer():
        raise AudioError(f"the sample rate is {sample_rate!r}; samples in memory need one, a whole number of Hz")
    if samples.dtype.kind != "f" and samples.dtype not in (np.int8, np.int16, np.int32, np.uint8):
        raise AudioError(
            f"the samples are {samples.dtype}; floating point, or integers of 8, 16 or 32 bits, are needed"
        )
    if samples.ndim not in (1, 2) or samples.ndim == 2 and samples.shape[1] > samples.shape[0] > 0:
        raise AudioError(
            f"the samples have the shape {list(samples.shape)}; [samples] or [samples, channels] is needed: transpose "
            "them if channels come first"
        )
    frames = samples.reshape(len(samples), -1) if samples.size else samples.reshape(0, 1)
    sound = Sound(
        int(sample_rate), IN_MEMORY, _array_blocks(frames), channels=frames.shape[1], clips=frames.dtype.kind != "f",
        seconds=len(frames) / max(1, int(sample_rate)),
    )  # fmt: skip
    _check(sound)
    return sound


def _array_blocks(frames: np.ndarray) -> Iterator[np.ndarray]:
    """Yield [T, channels] in blocks of float32, scaled as libsndfile does it."""
    zero = 128 if frames.dtype == np.uint8 else 0
    scale = np.float32(1 if frames.dtype.kind == "f" else 2.0 ** (1 - 8 * frames.dtype.itemsize))
    step = max(1, READ_BLOCK // frames.shape[1])
    for start in range(0, len(frames), step):
        with np.errstate(over="ignore"):  # found, and reported, by whoever reads the blocks
            block = frames[start : start + step].astype(np.float32)
        yield (block - np.float32(zero)) * scale if frames.dtype.kind != "f" else block


@contextlib.contextmanager
def open_sound(path: Path | str) -> Iterator[Sound]:
    """Open a recording in any format that libsndfile or PyAV knows. The content decides.

    Raises:
        AudioError: not a recording, or broken; also while the blocks are read. The message does not name the file.
        DecoderEnded: the decoder was ended from outside, or lacked memory; another try may succeed.
        OSError: the file is not there, or may not be read.
    """
    with open(path, "rb") as stream:
        head = stream.read(HEAD)
        if not head:
            raise AudioError("the file is empty; record again")
        size = os.fstat(stream.fileno()).st_size
        parts = pcm_parts(stream, size) if is_pcm(head) else []
        reason, sound, holds_sound = "", None, begins_as_sound(head)
        simple = not parts and _is_simple(stream, head, size)
        if parts or simple or head.startswith(LIBSNDFILE_ONLY) or not holds_sound:
            with contextlib.ExitStack() as open_files:
                try:
                    sound = _libsndfile(stream, parts, simple, open_files)
                except soundfile.SoundFileError as error:
                    reason = _said(error)
                else:
                    holds_sound = True  # even if PyAV reads it better
                if sound:
                    _check(sound)
                    yield sound
                    return
    if not named_as_sound(path) and not holds_sound:
        raise NotAudio(f"not a recording: neither its content nor its name says that it holds sound ({reason})")
    if not decoder_name() and reason:
        raise AudioError(f"not a recording that libsndfile can read ({reason}); for more kinds: pip install av")
    with open_with_av(path, READ_BLOCK) as sound:
        _check(sound)
        yield sound


def named_as_sound(path: Path | str) -> bool:
    """Tell whether a file has the name of a recording."""
    return os.path.splitext(path)[1].lower() in SOUND_SUFFIXES


def begins_as_sound(head: bytes) -> bool:
    """Tell whether the first bytes of a file, HEAD of them, are those of a format that holds sound."""
    if head[4:8] == b"ftyp" and head[8:12] in STILL_IMAGES:
        return False
    if head.startswith(b"ID3") or MpegFrame.read(head[:4]) or _is_transport_stream(head):
        return True
    loas = head[:1] == b"V" and len(head) > 2 and head[1] & 0xE0 == 0xE0
    return loas or any(head.startswith(magic, offset) for offset, magic in SIGNATURES)


def _is_transport_stream(head: bytes) -> bool:
    return any(head[at : at + 2 * step + 1 : step] == b"GGG" for at, step in ((0, 188), (4, 192)))


def _check(sound: Sound) -> None:
    if not MIN_SOURCE_RATE <= sound.sample_rate <= MAX_SOURCE_RATE:
        raise AudioError(
            f"the sample rate is {sound.sample_rate} Hz; "
            f"{MIN_SOURCE_RATE} to {MAX_SOURCE_RATE} Hz are allowed: convert it"
        )
    if not 1 <= sound.channels <= MAX_CHANNELS:
        raise AudioError(f"there are {sound.channels} channels; 1 to {MAX_CHANNELS} are allowed: convert the recording")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence standard error, where libmpg123, inside libsndfile, comments on every flaw of a file."""
    if sys.stderr is None:  # it was closed when the program began: its descriptor may be that of the recording
        yield
        return
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


# --- libsndfile ------------------------------------------------------------------------------------------------------
def _is_simple(stream: BinaryIO, head: bytes, size: int) -> bool:
    """Tell whether a compressed file is one recording whose header is true, so that libsndfile reads all of it."""
    if head.startswith(b"fLaC") and len(head) >= 42:
        known = int.from_bytes(head[21:26], "big") & 0xF_FFFF_FFFF
        return known > 0 and all(find_bytes(stream, magic, 4, size) < 0 for magic in FLAC_BEGINS)
    if head.startswith(b"OggS"):
        return is_simple_ogg(stream, size)
    return (head.startswith(b"ID3") or MpegFrame.read(head[:4]) is not None) and is_simple_mpeg(stream, size)


def _libsndfile(stream: BinaryIO, parts: list[PcmPart], simple: bool, open_files: contextlib.ExitStack) -> Sound | None:
    """Open with libsndfile; None if it knows the format, but not as well as PyAV."""
    one = len(parts) == 1 and not parts[0].header
    if one or not parts:
        os.lseek(stream.fileno(), 0, os.SEEK_SET)  # past the stream's own buffer, which is not used again
        # by its descriptor, since soundfile looks at the suffix of a name
        with _quiet() if not parts else contextlib.nullcontext():
            files = [soundfile.SoundFile(stream.fileno(), closefd=False)]
    else:
        files = [soundfile.SoundFile(opened(stream, part)) for part in parts]
    for file in files:
        open_files.enter_context(file)
    first = files[0]
    if (first.format in ("OGG", "MP3") and not simple) or (first.subtype.startswith("MPEG") and parts):  # mp3 in wav
        return None
    rate, channels = max(file.samplerate for file in files), first.channels
    if any(file.channels != channels for file in files):
        channels = 1
    low_bits = [part.low_bits for part in parts] or [False]
    stretches = (
        (file.samplerate, _raised(block) if low else block)
        for file, low in zip(files, low_bits, strict=True)
        for block in _blocks(file)
    )
    blocks = (block for _, block in stretches) if one or not parts else joined(stretches, rate, channels)
    clips = any(file.subtype not in FLOATING for file in files)
    seconds = sum(file.frames / file.samplerate for file in files if file.frames < UNKNOWN_FRAMES)
    return Sound(rate, LIBSNDFILE, blocks, _Damage(files, parts, rate), channels, clips, seconds=seconds)


def _blocks(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    frames = max(1, READ_BLOCK // file.channels)
    got = frames
    quiet = _quiet if file.format == "MP3" else contextlib.nullcontext
    try:
        while got == frames:
            with quiet():
                block = file.read(frames, dtype="float32", always_2d=True)  # [T, channels]
            if got := len(block):
                yield block
    except soundfile.SoundFileError as error:
        raise AudioError(
            f"damaged: libsndfile stops in the middle ({_said(error)}); another program may rescue a part"
        ) from error


def _raised(block: np.ndarray) -> np.ndarray:
    """Scale samples of which 24 bits in the lower part of 32 were read as 32; the upper part may lack the sign."""
    block *= 256
    block[block >= 1] -= 2
    return block


def _said(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).strip(" .")


class _Damage:
    """Compares what a file promises with the samples that were read from it: damage(n) of `Sound`."""

    def __init__(self, files: list[Any], parts: list[PcmPart], rate: int) -> None:
        self._rate = rate
        self._promised = 0.0  # seconds
        paired: list[PcmPart | None] = [*parts] or [None] * len(files)
        for file, part in zip(files, paired, strict=True):
            frames = file.frames
            if part and part.cut:
                frames = max(frames, round(file.frames * part.promised / max(1, part.end - part.data)))
            elif part and not part.promised:  # frames that a header of an unknown length names
                frames = 0
            self._promised += frames / file.samplerate

    def __call__(self, samples: int) -> str:
        seconds = samples / self._rate
        if self._promised - seconds > UNNOTICED:
            return f"damaged: {seconds:.2f} of {self._promised:.2f} s could be read"
        return ""
