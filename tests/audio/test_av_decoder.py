"""Decoding by a file's own times, what is there where headers are wrong, and a decoder's process that ends."""

import functools
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from audio import av_decoder, features
from audio.av_decoder import DecoderEnded, decoder_name, open_with_av
from audio.decoding import begins_as_sound, named_as_sound, open_sound
from audio.media_parts import find_parts
from audio.sound import AudioError, NotAudio

av = pytest.importorskip("av")
pytestmark = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg, which makes the files, is not installed")

ROOT = Path(__file__).resolve().parents[2]
VOICE = ROOT / "examples" / "voice_en.wav"  # 8 kHz, mono
SECONDS = soundfile.info(VOICE).duration
DEADLINE = 120


def convert(target: Path, *options: str) -> Path:
    target.write_bytes(converted(target.suffix, options))
    return target


@functools.cache
def converted(suffix: str, options: tuple[str, ...]) -> bytes:
    """Convert the voice once for all tests that want the same file."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, f"a{suffix}")
        command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(VOICE), *options, str(target)]
        subprocess.run(command, check=True, timeout=DEADLINE)
        return target.read_bytes()


def piped(target: Path, *options: str) -> Path:
    """Do as `convert`, through a pipe: no header can be completed at the end."""
    command: list[str | Path] = ["ffmpeg", "-nostdin", "-v", "error", "-i", VOICE, *options, "pipe:1"]
    target.write_bytes(subprocess.run(command, check=True, timeout=DEADLINE, capture_output=True).stdout)
    return target


def glued(target: Path, *parts: Path) -> Path:
    target.write_bytes(b"".join(part.read_bytes() for part in parts))
    return target


def read(path: Path) -> tuple[np.ndarray, int, str]:
    """Mono samples, their rate, and the damage of a file."""
    with open_sound(path) as sound:
        mono = np.concatenate([block.mean(axis=1, dtype=np.float32) for block in sound.blocks])
        return mono, sound.sample_rate, sound.damage(len(mono))


def plain() -> tuple[np.ndarray, int]:
    return soundfile.read(VOICE, dtype="float32")


def shift(samples: np.ndarray, rate: int) -> float:
    """Milliseconds by which sound is later than the example."""
    wanted, wanted_rate = plain()
    wanted, heard = soxr.resample(wanted, wanted_rate, 16_000), soxr.resample(samples, rate, 16_000)
    size = 1 << (len(wanted) + len(heard)).bit_length()
    products = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(wanted, size)))
    late = int(products.argmax())
    return (late if late < size // 2 else late - size) / 16


def likeness(path: Path) -> float:
    return float(np.corrcoef(features.extract(path).vector, features.extract(VOICE).vector)[0, 1])


# --- every kind, at its place ----------------------------------------------------------------------------------------
KINDS: dict[str, tuple[str, ...]] = {
    "a.m4a": (), "a.3gp": ("-c:a", "aac"), "a.mov": (), "a.aac": (), "a.loas": ("-f", "latm"), "a.opus": (),
    "parts.mp4": ("-movflags", "+frag_keyframe+empty_moov", "-frag_duration", "500000"),
    "tag.mp3": (), "none.mp3": ("-write_xing", "0"), "vbr.mp3": ("-write_xing", "0", "-q:a", "4"),
    "a.ogg": (), "a.webm": (), "aac.mkv": ("-c:a", "aac"), "mp3.mkv": ("-c:a", "libmp3lame"), "a.mka": (),
    "a.flv": ("-c:a", "aac", "-ar", "44100"), "a.ts": ("-c:a", "aac"), "a.mp2": (), "a.avi": (),
    "a.mts": ("-c:a", "ac3", "-ar", "48000"), "a.m2ts": ("-c:a", "ac3", "-ar", "48000"),
    "a.vob": ("-c:a", "ac3", "-ar", "48000"), "a.mpg": ("-c:a", "mp2", "-ar", "48000"), "a.wma": (),
    "44.wma": ("-ar", "44100"), "a.ac3": ("-ar", "48000"), "a.dts": ("-c:a", "dca", "-strict", "-2", "-ar", "48000"),
    "alac.m4a": ("-c:a", "alac"), "a.wv": (), "a.tta": (), "mp3.wav": ("-c:a", "libmp3lame"),
    "six.m4a": ("-ac", "6"), "flac.ogg": ("-c:a", "flac"), "a.gsm": ("-c:a", "libgsm"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), KINDS.items(), ids=KINDS)
def test_every_kind_begins_and_ends_where_it_should(tmp_path, name, options):
    samples, rate, damage = read(convert(tmp_path / name, *options))
    assert not damage
    assert len(samples) / rate == pytest.approx(SECONDS, abs=0.05)
    assert shift(samples, rate) == pytest.approx(0, abs=1.0)
    assert named_as_sound(name)


@pytest.mark.parametrize("name", ["a.ogg", "a.mp3", "a.flac", "a.aiff", "a.au", "a.caf", "a.w64", "a.voc", "a.wav"])
def test_what_libsndfile_reads_keeps_its_bits(tmp_path, name):
    path = convert(tmp_path / name, *(("-c:a", "pcm_s16le") if name == "a.voc" else ()))
    samples, _, damage = read(path)
    least = 1e-7 if name == "a.mp3" else 0  # whose rounding depends on how much is read at a time
    np.testing.assert_allclose(samples, soundfile.read(path, dtype="float32")[0], rtol=0, atol=least)
    assert not damage


@pytest.mark.parametrize("name", ["a.mka", "a.flac", "a.tta", "a.wv", "a.m4a"])
def test_lossless_is_the_same_to_the_bit(tmp_path, name):
    options = {"a.mka": ("-c:a", "pcm_s16le"), "a.m4a": ("-c:a", "alac")}.get(name, ())
    with open_with_av(convert(tmp_path / name, *options)) as sound:
        samples = np.concatenate(list(sound.blocks))
    np.testing.assert_array_equal(samples[:, 0], plain()[0])


# --- more than the first part ----------------------------------------------------------------------------------------
GLUED = {
    ".mp3": (), "_none.mp3": ("-write_xing", "0"), ".flac": (), ".m4a": (), ".wav": (), ".opus": (), ".ogg": (),
    ".webm": (), ".wma": (), ".wv": (), ".aac": (), ".aiff": (), ".au": (), ".flv": ("-c:a", "aac", "-ar", "44100"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("end", "options"), GLUED.items(), ids=GLUED)
def test_all_parts_of_a_glued_file_are_read(tmp_path, end, options):
    one = convert(tmp_path / f"one{end}", *options)
    samples, rate, damage = read(glued(tmp_path / f"two{end}", one, one))
    assert not damage
    # nothing in a stream of AAC says where one recording ends: two packets of 128 ms are the encoder's
    assert len(samples) / rate == pytest.approx(2 * SECONDS, abs=0.3 if end == ".aac" else 0.1)
    assert shift(samples[len(samples) // 2 :], rate) == pytest.approx(0, abs=130 if end == ".aac" else 30)


@pytest.mark.slow
@pytest.mark.parametrize("end", [".opus", ".ogg", ".mp3", ".wav", ".flac", ".aac"])
def test_parts_of_other_rates_and_channels_are_read(tmp_path, end):
    one = convert(tmp_path / f"1{end}", "-ar", "16000")
    two = convert(tmp_path / f"2{end}", "-ar", "48000", "-af", "pan=stereo|c0=c0|c1=c0")
    samples, rate, damage = read(glued(tmp_path / f"g{end}", one, two))
    assert rate == 48_000 and not damage
    assert len(samples) / rate == pytest.approx(2 * SECONDS, abs=0.15)
    first, second = np.array_split(samples, 2)
    assert np.sqrt(np.mean(second**2)) == pytest.approx(np.sqrt(np.mean(first**2)), rel=0.1)  # neither is louder


def test_an_mp3_whose_rate_and_channels_change_goes_on_where_it_should(tmp_path):
    """The second recording has no tag; what its encoder put in front, and the padding of the first, are dropped."""
    one = convert(tmp_path / "1.mp3", "-ar", "44100")
    two = convert(
        tmp_path / "2.mp3", "-ar", "48000", "-af", "pan=stereo|c0=c0|c1=c0", "-write_xing", "0", "-id3v2_version", "0"
    )
    samples, rate, damage = read(glued(tmp_path / "g.mp3", one, two))
    assert rate == 48_000 and not damage
    second = samples[round(SECONDS * rate) :]
    assert shift(second, rate) == pytest.approx(0, abs=0.2)


def test_an_mp3_without_a_tag_is_read_to_its_end(tmp_path):
    quiet = ("-af", "adelay=2000", "-q:a", "4")
    samples, rate, damage = read(piped(tmp_path / "a.mp3", "-f", "mp3", "-write_xing", "0", *quiet))
    assert len(samples) / rate == pytest.approx(SECONDS + 2, abs=0.1) and not damage


# --- headers that say too little -------------------------------------------------------------------------------------
def without_sizes(path: Path) -> Path:
    """Write zeros over the sizes in a header, as a recorder that crashes leaves them."""
    content = bytearray(path.read_bytes())
    for name, width in ((b"data", 8 if path.suffix == ".caf" else 4), (b"SSND", 4)):
        if path.suffix != ".w64" and (where := content.find(name)) > 0:
            content[where + 4 : where + 4 + width] = bytes(width)
    if path.suffix == ".wav":
        content[4:8] = bytes(4)
    if path.suffix == ".au":
        content[8:12] = bytes(4)
    if path.suffix == ".w64":
        where = content.find(bytes.fromhex("64617461f3acd311"))
        content[16:24] = content[where + 16 : where + 24] = bytes(8)
    if path.suffix == ".rf64":
        content[20:36] = bytes(16)
        where = content.find(b"data")
        content[where + 4 : where + 8] = b"\xff" * 4
    if path.suffix == ".flac":
        content[21] &= 0xF0
        content[22:26] = bytes(4)
    path.write_bytes(content)
    return path


SIZELESS: dict[str, tuple[str, ...]] = {
    "a.wav": (), "a.aiff": (), "a.au": (), "a.caf": (), "a.w64": (), "a.flac": (),
    "a.rf64": ("-rf64", "always", "-f", "wav"), "24.wav": ("-c:a", "pcm_s24le"), "f.wav": ("-c:a", "pcm_f32le"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "options"), SIZELESS.items(), ids=SIZELESS)
def test_a_size_that_was_never_written_is_the_rest_of_the_file(tmp_path, name, options):
    path = without_sizes(convert(tmp_path / name, "-fflags", "+bitexact", *options))
    samples, rate, damage = read(path)
    assert not damage and rate == 8000
    np.testing.assert_array_equal(samples, plain()[0])


@pytest.mark.parametrize("kind", ["wav", "aiff", "au", "flac", "caf", "w64"])
def test_a_pipe_leaves_no_damage(tmp_path, kind):
    if kind in ("aiff", "caf", "w64"):  # ffmpeg does not write these to a pipe
        path = convert(tmp_path / f"a.{kind}")
        content = bytearray(path.read_bytes())
        if kind == "aiff":
            where = content.find(b"SSND") + 4
            content[4:8] = b"\x7f\0\0\x7f"
            content[where : where + 4] = b"\x7f\0\0\x08"
        if kind == "caf":
            where = content.find(b"data") + 4
            content[where : where + 8] = b"\xff" * 8
        path.write_bytes(content)
    else:
        path = piped(tmp_path / f"a.{kind}", "-f", kind)
    samples, _, damage = read(path)
    assert not damage
    np.testing.assert_array_equal(samples, plain()[0])


def test_an_odd_chunk_without_its_pad_byte(tmp_path):
    content = VOICE.read_bytes()
    odd = b"note" + struct.pack("<I", 3) + b"abc"
    at = content.index(b"data")
    path = tmp_path / "a.wav"
    path.write_bytes(content[:at] + odd + content[at:])
    samples, _, damage = read(path)
    np.testing.assert_array_equal(samples, plain()[0])
    assert not damage


def test_a_header_that_says_too_little(tmp_path):
    content = bytearray(VOICE.read_bytes())
    where = content.index(b"data") + 4
    content[where : where + 4] = struct.pack("<I", 8000)
    content[4:8] = struct.pack("<I", where + 4 + 8000 - 8)
    (tmp_path / "a.wav").write_bytes(content)
    assert len(read(tmp_path / "a.wav")[0]) == len(plain()[0])


@pytest.mark.parametrize("behind", [b"TAG" + bytes(125), b"LIST" + struct.pack("<I", 4) + b"INFO", bytes(9999)])
def test_what_is_no_sound_behind_the_samples_is_left_out(tmp_path, behind):
    (tmp_path / "a.wav").write_bytes(VOICE.read_bytes() + behind)
    samples, _, damage = read(tmp_path / "a.wav")
    np.testing.assert_array_equal(samples, plain()[0])
    assert not damage


def test_an_empty_wav_is_empty(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0, np.float32), 8000)
    with pytest.raises(AudioError, match="no samples"):
        features.extract(tmp_path / "a.wav")


# --- was it all? -----------------------------------------------------------------------------------------------------
CUT: dict[str, tuple[str, ...]] = {
    "a.opus": (), "a.ogg": (), "a.webm": (), "a.mkv": (), "a.m4a": ("-movflags", "+faststart"), "a.mp3": (),
    "a.flac": (), "a.wma": (), "a.avi": (), "a.wav": (), "a.aiff": (), "a.wv": (), "a.tta": (),
    "a.vob": ("-c:a", "mp2", "-ar", "48000"), "a.ts": ("-c:a", "mp2", "-ar", "48000"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), CUT.items(), ids=CUT)
def test_a_cut_file_is_damaged_and_a_whole_one_is_not(tmp_path, name, options):
    path = convert(tmp_path / name, "-af", "aloop=loop=7:size=23608", *options)
    whole = path.read_bytes()
    assert not read(path)[2]
    for share in (0.5, 0.7):
        path.write_bytes(whole[: int(share * len(whole)) | 1])
        try:
            samples, rate, damage = read(path)
        except AudioError as error:  # libsndfile stops in the middle of a flac
            assert name == "a.flac" and "damaged" in str(error)
            continue
        assert damage.startswith("damaged: ")
        assert len(samples) / rate == pytest.approx(share * 8 * SECONDS, abs=4.5)


@pytest.mark.parametrize("name", ["a.ogg", "a.opus", "a.m4a", "a.mp3", "a.wav", "a.webm", "a.aac"])
def test_zeros_behind_a_whole_file_are_no_damage(tmp_path, name):
    path = convert(tmp_path / name)
    path.write_bytes(path.read_bytes() + bytes(12_000))
    samples, rate, damage = read(path)
    assert not damage and len(samples) / rate == pytest.approx(SECONDS, abs=0.05)


def test_zeros_in_place_of_the_rest_are_damage(tmp_path):
    path = convert(tmp_path / "a.ogg")
    whole = path.read_bytes()
    pages = [at for at in range(len(whole)) if whole.startswith(b"OggS", at)]
    path.write_bytes(whole[: pages[-1]] + bytes(12_000))
    assert read(path)[2].startswith("damaged: cut off")


def test_an_opus_file_without_an_end_mark_is_whole(tmp_path):
    path = convert(tmp_path / "a.opus")
    content = bytearray(path.read_bytes())
    last = content.rindex(b"OggS")
    content[last + 5] &= ~4
    page = bytes(content[last : last + 22]) + bytes(4) + bytes(content[last + 26 :])
    from audio.media_parts import ogg_checksum

    content[last + 22 : last + 26] = ogg_checksum(page).to_bytes(4, "little")
    path.write_bytes(content)
    samples, rate, damage = read(path)
    assert not damage and len(samples) / rate == pytest.approx(SECONDS, abs=0.001)


def test_the_checksum_is_that_of_every_page(tmp_path):
    path = convert(tmp_path / "a.ogg")
    with path.open("rb") as file:
        assert [part.flaws for part in find_parts(file, path.stat().st_size)] == [0]
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    with path.open("rb") as file:
        assert [part.flaws for part in find_parts(file, path.stat().st_size)] == [1]


# --- gaps ------------------------------------------------------------------------------------------------------------
def without_packets(source: Path, target: Path, first: float, last: float) -> Path:
    """Copy a file without the packets between two times."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = reader.streams.audio[0]
        copy = writer.add_stream_from_template(stream)
        for packet in reader.demux(stream):
            if packet.dts is not None and not first <= packet.pts * packet.time_base < last:
                packet.stream = copy
                writer.mux(packet)
    return target


@pytest.mark.parametrize("name", ["a.webm", "a.mkv", "a.mp4"])
def test_a_gap_in_the_times_is_silence(tmp_path, name):
    whole = convert(tmp_path / f"whole_{name}", *(("-c:a", "libopus") if name == "a.mkv" else ()))
    samples, rate, _ = read(without_packets(whole, tmp_path / name, 1.0, 2.0))
    assert len(samples) / rate == pytest.approx(SECONDS, abs=0.1)
    assert np.abs(samples[round(1.2 * rate) : round(1.8 * rate)]).max() < 1e-3
    assert shift(samples, rate) == pytest.approx(0, abs=2)


def test_pauses_of_amr_are_silence(tmp_path):
    try:
        av.CodecContext.create("libopencore_amrnb", "w")
    except Exception:
        pytest.skip("this PyAV has no encoder of AMR")
    voice, rate = soundfile.read(VOICE, dtype="int16")
    sound = np.concatenate([voice, np.zeros(2 * rate, np.int16), voice])
    with av.open(str(tmp_path / "a.amr"), "w", format="amr") as writer:
        stream = writer.add_stream("libopencore_amrnb", rate=rate, layout="mono", options={"dtx": "1"})
        stream.bit_rate = 12_200
        frame = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            writer.mux(packet)
    samples, _, damage = read(tmp_path / "a.amr")
    assert not damage and len(samples) / rate == pytest.approx(len(sound) / rate, abs=0.05)
    assert shift(samples[: len(voice)], rate) == pytest.approx(0, abs=10)


# --- several streams -------------------------------------------------------------------------------------------------
def test_the_stream_that_can_be_heard_is_read(tmp_path):
    silence = ("-f", "lavfi", "-i", "anullsrc=r=8000:cl=mono", "-shortest")
    options = ("-map", "1:a", "-map", "0:a", "-c:a", "aac", "-disposition:a:0", "default")
    path = convert(tmp_path / "a.mkv", *silence, *options)
    with open_sound(path) as sound:
        assert (sound.stream, sound.streams) == (1, 2)
        assert np.abs(np.concatenate(list(sound.blocks))).max() > 0.1


def test_the_default_stream_is_read(tmp_path):
    tone = ("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=8000:duration=3")
    options = (
        "-map",
        "1:a",
        "-map",
        "0:a",
        "-c:a",
        "pcm_s16le",
        "-disposition:a:0",
        "0",
        "-disposition:a:1",
        "default",
    )
    samples, _, _ = read(convert(tmp_path / "a.mkv", *tone, *options))
    np.testing.assert_array_equal(samples, plain()[0])


def test_chapters_and_covers_are_no_damage(tmp_path):
    cover = ("-f", "lavfi", "-i", "color=size=32x32:rate=1:duration=1", "-map", "0:a", "-map", "1:v", "-frames:v", "1")
    path = convert(tmp_path / "a.m4a", *cover, "-c:v", "mjpeg", "-disposition:v", "attached_pic")
    assert read(path)[1:] == (8000, "")


def test_no_sound(tmp_path):
    path = convert(tmp_path / "a.mp4", "-f", "lavfi", "-i", "color=size=32x32:rate=5:duration=1", "-map", "1:v")
    with pytest.raises(AudioError, match="no sound in it"):
        read(path)


# --- full scale ------------------------------------------------------------------------------------------------------
def test_floating_point_does_not_clip(tmp_path):
    loud = 4 * plain()[0]
    for subtype, clips in (("FLOAT", False), ("DOUBLE", False), ("PCM_16", True)):
        soundfile.write(tmp_path / "a.wav", np.clip(loud, -1, 1) if clips else loud, 8000, subtype=subtype)
        with open_sound(tmp_path / "a.wav") as sound:
            assert sound.clips == clips
    with open_sound(convert(tmp_path / "a.mka", "-c:a", "pcm_f32le")) as sound:
        assert not sound.clips


@pytest.mark.parametrize("extended", [True, False])
def test_24_bits_in_the_lower_part_of_32(tmp_path, extended):
    """This is how arecord writes S24_LE."""
    values = (plain()[0] * 2**23).astype("<i4")
    samples = (values if extended else values & 0xFF_FFFF).astype("<i4").tobytes()
    form = struct.pack("<HHIIHH", 1, 1, 8000, 32_000, 4, 24)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(samples)) + samples
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    np.testing.assert_allclose(read(tmp_path / "a.wav")[0], plain()[0], atol=2e-7)


# --- files that are none ---------------------------------------------------------------------------------------------
def test_only_the_one_file_is_opened(tmp_path):
    (tmp_path / "list.wav").write_text(f"ffconcat version 1.0\nfile {VOICE}\n")
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{VOICE}\n")
    for path in tmp_path.iterdir():
        with pytest.raises(AudioError, match="not a recording that can be read"):
            read(path)
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{VOICE}\n")
    with pytest.raises(NotAudio):
        read(tmp_path / "list.m3u8")


def test_signatures(tmp_path):
    for name in ("a.ts", "a.m2ts", "a.vob", "a.loas", "a.mts"):
        options = ("-f", "latm") if name == "a.loas" else ("-c:a", "mp2", "-ar", "48000")
        assert begins_as_sound(convert(tmp_path / name, *options).read_bytes()[:600])
    assert not begins_as_sound(b"Good morning" * 99) and not begins_as_sound(bytes(600))


def test_without_pyav_one_line_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(av_decoder, "decoder_name", lambda: "")
    with pytest.raises(AudioError, match="pip install av"):
        read(convert(tmp_path / "a.m4a"))


# --- the process -----------------------------------------------------------------------------------------------------
@pytest.fixture
def program(tmp_path, monkeypatch) -> Iterator[Callable[[str], None]]:
    """Put a program of a test in the decoder's place; its code begins once a file is asked for."""

    def replace_with(code: str) -> None:
        path = tmp_path / "decoder.py"
        path.write_text(f"import os, signal, sys\nsys.stdin.buffer.read1(1 << 20)\n{code}\n")
        monkeypatch.setattr(av_decoder, "PROGRAM", str(path))
        av_decoder._end_all()

    yield replace_with
    av_decoder._end_all()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", AudioError),
        ("os.kill(os.getpid(), signal.SIGPROF)", AudioError),
        ("os.kill(os.getpid(), signal.SIGKILL)", DecoderEnded),
        ("sys.exit(1)", DecoderEnded),
    ],
)
def test_a_process_that_ends_costs_one_file(tmp_path, monkeypatch, program, code, kind):
    path = convert(tmp_path / "a.m4a")
    with monkeypatch.context():
        program(code)
        with pytest.raises(kind, match="decoder"):
            read(path)
    monkeypatch.undo()
    assert not read(path)[2]


def test_one_process_serves_many_files(tmp_path):
    path = convert(tmp_path / "a.m4a")
    av_decoder._end_all()
    for _ in range(3):
        read(path)
    assert len(av_decoder._idle) == 1 and av_decoder._idle[0].served == 3


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_file_is_tried_again_where_an_earlier_one_broke_the_process(tmp_path):
    path = convert(tmp_path / "a.m4a")
    read(path)
    wanted = read(path)[0]
    with open_sound(path) as sound:
        decoder = next(iter(av_decoder._idle), None)  # a short file is in the pipe already
        samples = np.concatenate(list(sound.blocks))
    np.testing.assert_array_equal(samples[:, 0], wanted)
    (decoder or av_decoder._idle[0]).process.kill()
    np.testing.assert_array_equal(read(path)[0], wanted)


def test_a_file_that_is_left_in_the_middle(tmp_path):
    path = convert(tmp_path / "a.m4a", "-af", "aloop=loop=100:size=20000", "-c:a", "alac")
    with open_sound(path) as sound:
        next(sound.blocks)
    assert not read(convert(tmp_path / "b.m4a"))[2]


@pytest.mark.skipif(os.name == "nt", reason="processor time")
def test_a_file_that_comes_to_no_end(tmp_path, monkeypatch):
    path = convert(tmp_path / "a.m4a", "-af", "aloop=loop=200:size=20000", "-c:a", "alac")
    monkeypatch.setattr(av_decoder, "LEAST_SECONDS", 0.01)
    monkeypatch.setattr(av_decoder, "BYTES_A_SECOND", 1e12)
    with pytest.raises(AudioError, match="came to no end"):
        read(path)


def test_missing_and_forbidden_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.m4a")
    with pytest.raises(FileNotFoundError), open_with_av(tmp_path / "none.m4a"):
        pass


def test_the_package_may_have_any_name_and_place(tmp_path):
    shutil.copytree(ROOT / "audio", tmp_path / "some place" / "voice_nodes" / "hearing")
    (tmp_path / "some place" / "voice_nodes" / "__init__.py").write_text("print('imported')\n")
    path = convert(tmp_path / "a b:c.m4a")
    code = (
        f"from voice_nodes.hearing.av_decoder import open_with_av\nwith open_with_av({str(path)!r}) as s:\n"
        "    print(sum(map(len, s.blocks)))"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "some place"), "PYTHONSAFEPATH": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=DEADLINE
    )
    assert result.stdout.split() == ["imported", str(len(plain()[0]))], result.stderr


def test_packages_that_only_this_program_knows_are_found(tmp_path):
    """A host may have added their folder after it was started."""
    python = getattr(sys, "_base_executable", sys.executable)
    if Path(python) == Path(sys.executable):
        pytest.skip("no Python without the packages is known")
    folder = Path(av.__file__).parents[1]
    code = f"import site\nsite.addsitedir({str(folder)!r})\nfrom audio.decoding import open_sound\n"
    code += f"with open_sound({str(convert(tmp_path / 'a.m4a'))!r}) as s:\n    print(sum(map(len, s.blocks)))"
    result = subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)
    assert result.stdout.split() == [str(len(plain()[0]))], result.stderr


def _length(path: Path) -> int:
    return len(read(path)[0])


@pytest.mark.slow
def test_in_workers(tmp_path):
    joblib = pytest.importorskip("joblib")
    path = convert(tmp_path / "a.m4a")
    lengths = joblib.Parallel(n_jobs=2)(joblib.delayed(_length)(path) for _ in range(6))
    assert lengths == [len(plain()[0])] * 6


@pytest.mark.slow
def test_it_ends_with_the_program_that_started_it(tmp_path):
    path = convert(tmp_path / "a.m4a")
    code = (
        "from audio import av_decoder\n"
        f"with av_decoder.open_with_av({str(path)!r}) as s: list(s.blocks)\n"
        "print(av_decoder._idle[0].process.pid, flush=True)\nimport os; os._exit(0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    pid = int(result.stdout)
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        import time

        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("it goes on")


def test_any_bytes_in_titles_and_names(tmp_path):
    path = convert(tmp_path / "a.m4a", "-metadata", "title=XXXX")
    path.write_bytes(path.read_bytes().replace(b"XXXX", b"\xff\xfe\xe9\x80"))
    if sys.platform == "linux":
        path = path.rename(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xe9.m4a")))
    assert not read(path)[2]


def test_the_name_of_the_decoder():
    assert decoder_name() == f"PyAV {av.__version__}"


@pytest.mark.slow
def test_damaged_files_end_in_words(tmp_path):
    """Every mutated file becomes samples or a reason; none ends this program."""
    random, count = np.random.default_rng(0), 12
    for kind in ("m4a", "webm", "mp3", "opus", "wma", "ts", "wv", "flac", "avi", "flv"):
        options = ("-c:a", "aac", "-ar", "44100") if kind == "flv" else ("-t", "1")
        whole = convert(tmp_path / f"whole.{kind}", *options).read_bytes()
        for _ in range(count):
            content = bytearray(whole)
            for _ in range(random.integers(1, 20)):
                content[random.integers(len(content))] = random.integers(256)
            path = tmp_path / f"bad.{kind}"
            path.write_bytes(content[: random.integers(len(content) // 2, len(content) + 1)])
            try:
                samples, _, _ = read(path)
            except AudioError as error:
                assert "\n" not in str(error)
            else:
                assert len(samples) < 100 * len(whole)


@pytest.mark.parametrize("name", ["glued.opus", "a.webm"])
def test_opus_has_the_rate_of_the_recording(tmp_path, name):
    path = convert(tmp_path / name, "-c:a", "libopus")
    if name == "glued.opus":
        path = glued(path, convert(tmp_path / "one.opus"), convert(tmp_path / "one.opus"))
        assert read(path)[1] == soundfile.info(tmp_path / "one.opus").samplerate == 8000
    else:
        assert read(path)[1] == 8000 and likeness(path) > 0.99
