"""Files told apart by their content, and decoded block by block: libsndfile first, ffmpeg for what it cannot read.

Files are hostile until decoded: ffmpeg may open nothing but the one file (no network, no playlists), writes to a pipe,
and has a limit of time. No block holds more than READ_BLOCK samples, whatever a header says about length or channels.
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
MAX_CHANNELS = 1024  # as libsndfile
READ_BLOCK = 1 << 18  # samples of all channels decoded at a time: 1 MB
FFMPEG_SECONDS = 600  # of processor time for one file: some hundred hours of sound
LIBSNDFILE = "libsndfile"
UNNOTICED = 0.1  # seconds that may be missing: the length that an mp3 promises is an estimate
UNKNOWN_LENGTH = 0x7FFF_F000  # bytes; programs that write to a pipe put this or more into the header of a wav
AU_HEADER = struct.Struct(">4s5I")  # magic, offset of the sound, bytes of it, encoding, Hz, channels

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
STILL_PICTURES = (b"heic", b"heix", b"mif1", b"msf1", b"avif")  # also ftyp
FFMPEG_FORMATS = (  # no playlists, no concatenations: they open other files
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dts,eac3,flac,flv,gsm,loas,matroska,webm,mov,mp3,mpc,mpc8,mpeg,mpegts,ogg,rm,"
    "tak,tta,voc,w64,wav,wv"
)


class AudioError(ValueError):
    """A recording that cannot become a vector; the message says what came, what is allowed and what to do."""


class NotAudio(AudioError):
    """Neither the content nor the name of a file says that there is sound in it."""


@dataclass(frozen=True)
class Sound:
    """A file that is being decoded."""

    sample_rate: int  # Hz
    decoder: str  # LIBSNDFILE, or ffmpeg and its version
    blocks: Iterator[np.ndarray]  # each [T, channels] float32
    damage: Callable[[int], str] = lambda samples: ""  # what is missing if there were so many samples, "" if nothing


@contextlib.contextmanager
def open_sound(path: Path | str) -> Iterator[Sound]:
    """Open a recording in any format that libsndfile knows, or ffmpeg if it is installed. The content decides.

    Raises:
        AudioError: not a recording, or broken; also while the blocks are read. The message does not name the file.
        OSError: the file is not there, or may not be read.
    """
    with open(
        path, "rb", buffering=0
    ) as stream:  # so that a missing file is an OSError, not libsndfile's "System error"
        head = stream.read(64)
        if not head:
            raise AudioError("the file is empty; record again")
        stream.seek(0)
        quiet = _quiet if _begins_as_mpeg(head) else contextlib.nullcontext
        try:
            with quiet():
                # by its descriptor, since soundfile looks at the suffix of a name
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
        raise NotAudio(f"not a recording: neither its content nor its name says that there is sound in it ({reason})")
    if not ffmpeg_version():
        raise AudioError(
            f"not a recording that can be read ({reason}); wav, flac, ogg, mp3 and aiff can be, more kinds once ffmpeg "
            "is installed"
        )
    with _ffmpeg(path) as sound:
        yield sound


def named_as_sound(path: Path | str) -> bool:
    """Whether the name of a file promises sound."""
    return os.path.splitext(path)[1].lower() in SOUND_SUFFIXES


@functools.cache
def ffmpeg_version() -> str:
    """The decoder's name as `Sound.decoder` gives it, such as "ffmpeg 5.1.9", or "" if there is none."""
    program = shutil.which("ffmpeg")
    if not program:
        return ""
    try:
        said = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=30).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return f"ffmpeg {said[2]}" if said[:2] == ["ffmpeg", "version"] and len(said) > 2 else ""


def _begins_as_mpeg(head: bytes) -> bool:
    layer_2_or_3 = len(head) > 2 and head[0] == 0xFF and head[1] & 0xE6 in (0xE2, 0xE4)
    return layer_2_or_3 or head.startswith(b"ID3")


def _begins_as_sound(head: bytes) -> bool:
    if head[4:8] == b"ftyp" and head[8:12] in STILL_PICTURES:
        return False
    return _begins_as_mpeg(head) or any(head.startswith(magic, offset) for offset, magic in SIGNATURES)


def _check(rate: int, channels: int) -> None:
    if not MIN_SOURCE_RATE <= rate <= MAX_SOURCE_RATE:
        raise AudioError(
            f"a sample rate of {rate} Hz; {MIN_SOURCE_RATE} to {MAX_SOURCE_RATE} Hz are allowed: convert it"
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{channels} channels; 1 to {MAX_CHANNELS} are allowed: convert it")


def _beyond_ffmpeg(reason: str) -> AudioError:
    return AudioError(
        f"not a recording that can be read: neither libsndfile nor ffmpeg can ({reason}); it is no audio, or damaged"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing on standard error: libmpg123, inside libsndfile, comments there on every flaw of a file."""
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
            f"damaged: libsndfile stops in the middle ({reason}); `ffmpeg -i FILE out.wav` may save a part"
        ) from error


def _damage(file: soundfile.SoundFile, samples: int) -> str:
    """What a file promises beyond the samples (of one channel) that were read from it.

    Flac, mp3 and ogg tell how long they are. Of a wav or aiff that was cut, libsndfile notes in its log that the chunk
    of samples is shorter than its header says. An ogg that was cut ends within a page.
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
    """Decode the first sound stream of a file to an AU stream, whose header is the simplest that tells rate and
    channels."""
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
                raise _beyond_ffmpeg(_last_words(errors))
            _, offset, _, _, rate, channels = AU_HEADER.unpack(header)
            _check(rate, channels)
            process.stdout.read(offset - AU_HEADER.size)
            damage = functools.partial(_complaint, errors, rate)
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
        raise _beyond_ffmpeg(_last_words(errors))


def _complaint(errors: BinaryIO, rate: int, samples: int) -> str:
    """That there was something to complain of, though ffmpeg went on and did not fail."""
    if not errors.seek(0, os.SEEK_END):
        return ""
    return f"damaged: {samples / rate:.2f} s could be read ({_last_words(errors)})"


def _last_words(errors: BinaryIO) -> str:
    """What ffmpeg said at last, without file names and addresses, which change from run to run."""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - 2000))
    lines = errors.read().decode("utf-8", "replace").splitlines()
    if any("matches no streams" in line for line in lines):
        return "there is no sound in it"
    last = re.sub(r"^\[.* @ 0x[0-9a-f]+\] ", "", lines[-1]) if lines else ""
    return last.rpartition(": ")[2].strip(" .") or "ffmpeg gave up"
