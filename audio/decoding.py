"""Decode recordings block by block: libsndfile first, ffmpeg for formats that libsndfile cannot read.

The content of a file decides how it is read, not its name. A file may be hostile: ffmpeg can open only that one file
(no network, no playlists), writes to a pipe, and has a time limit. No block holds more than READ_BLOCK samples,
whatever the header says about length or channels.
"""

import contextlib
import functools
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

MIN_SOURCE_RATE, MAX_SOURCE_RATE = 1_000, 1_000_000  # Hz
MAX_CHANNELS = 1024  # the limit of libsndfile
READ_BLOCK = 1 << 18  # samples of all channels decoded at a time: 1 MB
FFMPEG_SECONDS = 600  # of processor time for one file: some hundred hours of sound
LIBSNDFILE = "libsndfile"
IN_MEMORY = "array"  # in place of a decoder
UNNOTICED = 0.1  # seconds that may be missing: the length in the header of an mp3 is an estimate
UNKNOWN_LENGTH = 0x7FFF_F000  # bytes; programs that write a wav to a pipe put this or more into its header
AU_HEADER = struct.Struct(">4s5I")  # magic, offset of the sound, its size in bytes, encoding, Hz, channels

_CUT_CHUNK = re.compile(r"^ *(?:data|SSND) *: (\d+) \(should be (\d+)\)", re.MULTILINE)  # in libsndfile's log
_CUT_PAGE = ("Ogg: Last page lacks an end-of-stream bit", "Ogg: Junk after the last page")  # the first alone is common
_SUFFIXES = (
    ".3gp .aac .ac3 .aif .aifc .aiff .alac .amr .ape .asf .au .avi .caf .dts .flac .flv .gsm .m4a .m4b .m4v .mka .mkv "
    ".mov .mp2 .mp3 .mp4 .mpeg .mpg .oga .ogg .ogv .opus .ra .raw .rf64 .rm .snd .sph .spx .tta .voc .w64 .wav .wave "
    ".webm .wma .wmv .wv"
)
SOUND_SUFFIXES = frozenset(_SUFFIXES.split())
SIGNATURES = (  # offset, first bytes of formats that hold sound
    *((0, magic) for magic in (b"fLaC", b"OggS", b"RF64", b".snd", b"caff", b"riff\x2e\x91", b"NIST_1A")),
    *((0, magic) for magic in (b"\x1aE\xdf\xa3", b"0&\xb2u\x8e\x66\xcf\x11", b"#!AMR", b"wvpk", b"MAC ", b"FLV\x01")),
    *((0, magic) for magic in (b"TTA1", b".RMF", b"\xff\xf1", b"\xff\xf9", b"\x0bw", b"Creative Voice")),
    *((8, magic) for magic in (b"WAVE", b"AVI ", b"AIFF", b"AIFC")),
    (4, b"ftyp"),
)
STILL_IMAGES = (b"heic", b"heix", b"mif1", b"msf1", b"avif")  # also ftyp
FFMPEG_FORMATS = (  # playlists and concatenations are left out, because they open other files
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dts,eac3,flac,flv,gsm,loas,matroska,webm,mov,mp3,mpc,mpc8,mpeg,mpegts,ogg,rm,"
    "tak,tta,voc,w64,wav,wv"
)


class AudioError(ValueError):
    """A recording cannot become a vector; the message says what came, what is allowed and what to do."""


class NotAudio(AudioError):
    """Neither the content nor the name of a file says that it holds sound."""


@dataclass(frozen=True)
class Sound:
    """A recording that is being decoded."""

    sample_rate: int  # Hz
    decoder: str  # LIBSNDFILE, IN_MEMORY, or ffmpeg and its version
    blocks: Iterator[np.ndarray]  # each [T, channels] float32
    damage: Callable[[int], str] = lambda samples: ""  # damage(n): what is missing from the file, given that n samples
    #                                                    of each channel were decoded; "" if nothing is


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
    _check(int(sample_rate), frames.shape[1])
    return Sound(int(sample_rate), IN_MEMORY, _array_blocks(frames))


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
    """Open a recording in any format that libsndfile knows, or ffmpeg if it is installed.

    Raises:
        AudioError: not a recording, or broken; also while the blocks are read. The message does not name the file.
        OSError: the file does not exist or cannot be read.
    """
    # opened here, so that a missing file is an OSError and not libsndfile's "System error"
    with open(path, "rb", buffering=0) as stream:
        head = stream.read(64)
        if not head:
            raise AudioError("the file is empty; record again")
        stream.seek(0)
        quiet = _quiet if _begins_as_mpeg(head) else contextlib.nullcontext
        try:
            with quiet():
                # by its descriptor, because soundfile trusts the suffix of a name
                file = soundfile.SoundFile(stream.fileno(), closefd=False)
        except soundfile.SoundFileError as error:
            reason = getattr(error, "error_string", str(error)).strip(" .")
        else:
            with file:
                _check(file.samplerate, file.channels)
                damage = functools.partial(_damage, file)
                yield Sound(file.samplerate, LIBSNDFILE, _libsndfile_blocks(file, quiet), damage)
            return
    if not named_as_sound(path) and not _begins_as_sound(head):
        raise NotAudio(f"not a recording: neither its content nor its name says that it holds sound ({reason})")
    if not ffmpeg_version():
        raise AudioError(
            f"not a recording that can be read ({reason}); use wav, flac, ogg, mp3 or aiff, or install ffmpeg"
        )
    with _ffmpeg(path) as sound:
        yield sound


def named_as_sound(path: Path | str) -> bool:
    """Tell whether a file has the name of a recording."""
    return os.path.splitext(path)[1].lower() in SOUND_SUFFIXES


@functools.cache
def ffmpeg_version() -> str:
    """Return ffmpeg's name and version as in `Sound.decoder`, such as "ffmpeg 5.1.9"; "" if it is not installed."""
    program = shutil.which("ffmpeg")
    if not program:
        return ""
    try:
        words = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=30).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return f"ffmpeg {words[2]}" if words[:2] == ["ffmpeg", "version"] and len(words) > 2 else ""


def _begins_as_mpeg(head: bytes) -> bool:
    layer_2_or_3 = len(head) > 2 and head[0] == 0xFF and head[1] & 0xE6 in (0xE2, 0xE4)
    return layer_2_or_3 or head.startswith(b"ID3")


def _begins_as_sound(head: bytes) -> bool:
    if head[4:8] == b"ftyp" and head[8:12] in STILL_IMAGES:
        return False
    return _begins_as_mpeg(head) or any(head.startswith(magic, offset) for offset, magic in SIGNATURES)


def _check(rate: int, channels: int) -> None:
    if not MIN_SOURCE_RATE <= rate <= MAX_SOURCE_RATE:
        raise AudioError(
            f"the sample rate is {rate} Hz; {MIN_SOURCE_RATE} to {MAX_SOURCE_RATE} Hz are allowed: convert it"
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"there are {channels} channels; 1 to {MAX_CHANNELS} are allowed: convert the recording")


def _unreadable(reason: str) -> AudioError:
    return AudioError(
        f"not a recording that can be read: neither libsndfile nor ffmpeg can ({reason}); it is no audio, or damaged"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence standard error, where libmpg123, inside libsndfile, comments on every flaw of a file."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _libsndfile_blocks(
    file: soundfile.SoundFile, quiet: Callable[[], contextlib.AbstractContextManager[None]]
) -> Iterator[np.ndarray]:
    frames = max(1, READ_BLOCK // file.channels)
    got = frames
    try:
        while got == frames:
            with quiet():
                block = file.read(frames, dtype="float32", always_2d=True)  # [T, channels]
            if got := len(block):
                yield block
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", str(error)).strip(" .")
        raise AudioError(
            f"damaged: libsndfile stops in the middle ({reason}); `ffmpeg -i FILE out.wav` may rescue a part"
        ) from error


def _damage(file: soundfile.SoundFile, samples: int) -> str:
    """Describe what is missing from a file, given that `samples` of each channel were decoded; "" if nothing is.

    Flac, mp3 and ogg say how long they are. If a wav or aiff was cut, libsndfile's log says that the chunk of samples
    is shorter than its header. An ogg that was cut ends within a page.
    """
    log = file.extra_info
    promised = file.frames
    if (cut := _CUT_CHUNK.search(log)) and 0 < int(cut[2]) < int(cut[1]) < UNKNOWN_LENGTH:
        promised = max(promised, round(samples * int(cut[1]) / int(cut[2])))
    seconds = samples / file.samplerate
    if promised - samples > UNNOTICED * file.samplerate:
        return f"damaged: {seconds:.2f} of {promised / file.samplerate:.2f} s could be read"
    return f"damaged: cut off after {seconds:.2f} s" if all(sign in log for sign in _CUT_PAGE) else ""


@contextlib.contextmanager
def _ffmpeg(path: Path | str) -> Iterator[Sound]:
    """Decode the first sound stream of a file to an AU stream: the simplest format that gives rate and channels."""
    command = ["ffmpeg", "-nostdin", "-v", "error", "-timelimit", str(FFMPEG_SECONDS), "-threads", "1"]
    command += ["-protocol_whitelist", "file", "-format_whitelist", FFMPEG_FORMATS, "-i", f"file:{os.fspath(path)}"]
    command += ["-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        try:
            assert process.stdout
            header = process.stdout.read(AU_HEADER.size)
            if len(header) < AU_HEADER.size:
                process.wait()
                raise _unreadable(_last_message(errors))
            _, offset, _, _, rate, channels = AU_HEADER.unpack(header)
            _check(rate, channels)
            process.stdout.read(offset - AU_HEADER.size)
            damage = functools.partial(_ffmpeg_damage, errors, rate)
            yield Sound(rate, ffmpeg_version(), _ffmpeg_blocks(process, channels, errors), damage)
        finally:
            process.kill()


def _ffmpeg_blocks(process: "subprocess.Popen[bytes]", channels: int, errors: BinaryIO) -> Iterator[np.ndarray]:
    assert process.stdout
    size = 4 * channels * max(1, READ_BLOCK // channels)
    while data := process.stdout.read(size):
        whole = len(data) // (4 * channels) * (4 * channels)
        samples = np.frombuffer(data[:whole], ">f4").astype(np.float32)
        yield samples.reshape(-1, channels)
    if process.wait():
        raise _unreadable(_last_message(errors))


def _ffmpeg_damage(errors: BinaryIO, rate: int, samples: int) -> str:
    """Describe the damage if ffmpeg reported an error and went on without failing; "" if it did not."""
    if not errors.seek(0, os.SEEK_END):
        return ""
    return f"damaged: {samples / rate:.2f} s could be read ({_last_message(errors)})"


def _last_message(errors: BinaryIO) -> str:
    """Return the last line of ffmpeg's errors without file names and addresses, which change from run to run."""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - 2000))
    lines = errors.read().decode("utf-8", "replace").splitlines()
    if any("matches no streams" in line for line in lines):
        return "it holds no sound"
    last = re.sub(r"^\[.* @ 0x[0-9a-f]+\] ", "", lines[-1]) if lines else ""
    return last.rpartition(": ")[2].strip(" .") or "ffmpeg gave up"
