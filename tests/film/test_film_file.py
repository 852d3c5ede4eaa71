"""Films as players see them: streams, colours, sound in time; and that what goes wrong leaves none."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

import config
from audio.sound import AudioError
from film import encoder_process, film_file
from film.encoder_process import Settings
from film.film_file import FilmWriter
from film.soundtrack import SAMPLE_RATE

VOICE = config.EXAMPLES_DIR / "voice_it.wav"
FORMATS = ["mp4", "webm"]
CODECS = {"mp4": ("h264", "aac"), "webm": ("vp9", "opus")}
SYNC = 0.02  # seconds
GREY = np.full((48, 64, 3), 128, np.uint8)


def write(path: Path, frames: int = 10, sound: Path | None = VOICE, fps: int | Fraction = 10, **more: str) -> Path:
    """A film of grey frames."""
    with FilmWriter(path, fps, (64, 48), sound, more) as film:
        for _ in range(frames):
            film.add(GREY)
    return path


def frames_of(path: Path) -> list[tuple[float, np.ndarray]]:
    """Time in seconds and RGB of each frame, as a player shows it."""
    with av.open(path) as film:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in film.decode(video=0)]


def sound_of(path: Path) -> tuple[float, np.ndarray]:
    """The time of the first sample in seconds, and all samples [T, channels]."""
    pieces, begin, heard = [], None, 0
    with av.open(path) as film:
        for frame in film.decode(audio=0):
            pieces.append(frame.to_ndarray().reshape(frame.layout.nb_channels, -1).T)  # both encoders are planar
            assert frame.time is not None
            begin = frame.time if begin is None else begin
            # no gap, no overlap: the clock is that of the samples
            assert abs(frame.time - begin - heard / SAMPLE_RATE) < 2e-3
            heard += frame.samples
    return begin or 0.0, np.concatenate(pieces)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("fps", [24, 8, Fraction(30_000, 1001)])
def test_a_film_has_the_streams_that_players_know(format, fps, tmp_path):
    path = write(tmp_path / f"a.{format}", 25, VOICE, fps)
    with av.open(path) as film:
        pictures, sound = film.streams.video[0], film.streams.audio[0]
        assert (pictures.codec.canonical_name, sound.codec.canonical_name) == CODECS[format]
        assert (pictures.pix_fmt, pictures.width, pictures.height) == ("yuv420p", 64, 48)
        assert (pictures.codec_context.colorspace, pictures.codec_context.color_range) == (1, 1)  # BT.709, limited
        assert sound.rate == SAMPLE_RATE and len(film.streams) == 2
        assert film.duration and film.duration / av.time_base == pytest.approx(25 / fps, abs=0.03)
    times = [time for time, _ in frames_of(path)]
    assert times == pytest.approx([float(i / fps) for i in range(25)], abs=1e-3)
    begin, samples = sound_of(path)
    assert begin == pytest.approx(0, abs=0.01) and len(samples) / SAMPLE_RATE == pytest.approx(25 / fps, abs=0.03)


@pytest.mark.skipif(not shutil.which("ffprobe"), reason="needs ffprobe")
@pytest.mark.parametrize("format", FORMATS)
def test_metadata_may_come_from_a_file_name_of_any_bytes(format, tmp_path):
    path = write(tmp_path / f"a\udcff.{format}", title="a\udcff\u00e9")
    with av.open(path) as film:
        assert film.metadata["title"] == "a?\u00e9"


@pytest.mark.parametrize("format", FORMATS)
def test_another_program_reads_the_film(format, tmp_path):
    path = write(tmp_path / f"a.{format}", 24, VOICE, 24, title="a red flower", comment='{"seed": 1}')
    asked = ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-show_format", "-of", "json", str(path)]
    said = json.loads(subprocess.run(asked, capture_output=True, check=True).stdout)
    pictures, sound = said["streams"]
    assert (pictures["codec_name"], sound["codec_name"]) == CODECS[format]
    assert (pictures["pix_fmt"], pictures["nb_read_frames"], pictures["avg_frame_rate"]) == ("yuv420p", "24", "24/1")
    assert (pictures["color_space"], pictures["color_primaries"], pictures["color_range"]) == ("bt709", "bt709", "tv")
    assert float(said["format"]["duration"]) == pytest.approx(1, abs=0.03)
    tags = {name.lower(): value for name, value in said["format"]["tags"].items()}
    assert (tags["title"], tags["comment"]) == ("a red flower", '{"seed": 1}')


def test_mp4_can_be_shown_before_all_of_it_is_there(tmp_path):
    content = write(tmp_path / "a.mp4").read_bytes()
    assert 0 < content.find(b"moov") < content.find(b"mdat")


@pytest.mark.parametrize("format", FORMATS)
def test_colours_are_those_of_the_frames(format, tmp_path):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 128, 128), (200, 120, 40)]
    with FilmWriter(tmp_path / f"a.{format}", 8, (64, 64)) as film:
        for colour in colours:
            film.add(np.full((64, 64, 3), colour, np.uint8))
    shown = frames_of(tmp_path / f"a.{format}")
    assert len(shown) == len(colours)
    for (_, frame), colour in zip(shown, colours, strict=True):
        assert np.abs(frame.astype(int) - colour).max() <= 6, colour


@pytest.mark.parametrize("format", FORMATS)
def test_odd_sizes_are_made_even_by_the_last_column_and_row(format, tmp_path):
    frame = np.zeros((51, 67, 3), np.uint8)
    frame[:, 33:] = 255
    with FilmWriter(tmp_path / f"a.{format}", 10, (67, 51)) as film:
        for _ in range(3):
            film.add(frame)
    shown = frames_of(tmp_path / f"a.{format}")
    assert len(shown) == 3 and shown[0][1].shape == (52, 68, 3)
    assert shown[0][1][51, 67].min() > 240 and shown[0][1][51, 0].max() < 15


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_frames_and_sound_the_same_bytes(format, tmp_path):
    assert write(tmp_path / f"a.{format}").read_bytes() == write(tmp_path / f"b.{format}").read_bytes()


# --- sound -----------------------------------------------------------------------------------------------------------
LONG, CLICKS = 600, (1, 300, 599)  # seconds


def clicks(rate: int, seconds: float = LONG) -> np.ndarray:
    """Short tones, float32 [T], the only sound; the first sample of each is at the time of a click."""
    samples = np.zeros(round(rate * seconds), np.float32)
    tone = np.sin(2 * np.pi * 1000 * np.arange(round(rate * 0.05)) / rate)
    for click in CLICKS:
        begin = round(rate * click)
        samples[begin : begin + len(tone)] = 0.7 * tone[: max(0, len(samples) - begin)]
    return samples


def telephone(path: Path) -> Path:
    soundfile.write(path.with_suffix(".wav"), clicks(8_000), 8_000)
    return path.with_suffix(".wav")


def stereo(path: Path) -> Path:
    samples = clicks(44_100)
    soundfile.write(path.with_suffix(".wav"), np.stack([samples, 0.5 * samples], axis=1), 44_100)
    return path.with_suffix(".wav")


def begins_late(path: Path) -> Path:
    """A stream whose clock begins at 1.4 s and more, as broadcasts have it."""
    path = path.with_suffix(".ts")
    with av.open(path, "w") as file:
        stream = file.add_stream("mp2", rate=44_100, layout="mono")
        frame = av.AudioFrame.from_ndarray((clicks(44_100)[None] * 32767).astype(np.int16), "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 44_100, 3 * 44_100, Fraction(1, 44_100)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("source", "format"), [(telephone, "webm"), (stereo, "mp4"), (begins_late, "mp4")])
def test_sound_is_in_time_with_the_images_for_ten_minutes(source, format, tmp_path):
    with FilmWriter(tmp_path / f"a.{format}", 1, (32, 32), source(tmp_path / "sound")) as film:
        for second in range(LONG):
            film.add(np.full((32, 32, 3), 255 * (second in CLICKS), np.uint8))
    seen = [time for time, frame in frames_of(tmp_path / f"a.{format}") if frame.mean() > 128]
    begin, samples = sound_of(tmp_path / f"a.{format}")
    loud = np.flatnonzero(np.abs(samples[:, 0]) > 0.2)
    heard = begin + loud[np.diff(loud, prepend=-SAMPLE_RATE) > SAMPLE_RATE / 10] / SAMPLE_RATE
    assert samples.shape[1] == (2 if source is stereo else 1)
    assert seen == pytest.approx(CLICKS, abs=1e-3) and heard == pytest.approx(CLICKS, abs=SYNC)


@pytest.mark.parametrize(("channels", "heard"), [(1, 1), (2, 2), (4, 1)])
def test_stereo_stays_and_more_channels_become_their_average(channels, heard, tmp_path):
    time = np.arange(48_000) / 48_000
    sines = np.stack([0.2 * np.sin(2 * np.pi * 300 * (i + 1) * time) for i in range(channels)], axis=1)
    soundfile.write(tmp_path / "a.wav", sines, 48_000)
    _, samples = sound_of(write(tmp_path / "a.mp4", sound=tmp_path / "a.wav"))
    assert samples.shape[1] == heard
    spectrum = np.abs(np.fft.rfft(samples[4_800:43_200], axis=0)) / 19_200
    levels = spectrum[[240 * (i + 1) for i in range(channels)]]  # [sine, channel]
    expected = 0.2 * np.eye(channels) if channels <= 2 else np.full((4, 1), 0.05)
    assert levels == pytest.approx(expected, abs=0.02)


def test_sound_ends_with_the_frames_and_frames_may_go_on_after_it(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(8_000, 0.1), 8_000)
    _, long = sound_of(write(tmp_path / "long.mp4", 20, tmp_path / "a.wav"))
    _, short = sound_of(write(tmp_path / "short.mp4", 5, tmp_path / "a.wav"))
    assert len(long) / SAMPLE_RATE == pytest.approx(1, abs=0.05) and len(frames_of(tmp_path / "long.mp4")) == 20
    assert len(short) / SAMPLE_RATE == pytest.approx(0.5, abs=0.05)


def test_a_film_without_sound_has_no_stream_of_it(tmp_path):
    with av.open(write(tmp_path / "a.mp4", sound=None)) as film:
        assert len(film.streams) == 1


def test_the_blocks_of_a_recording_do_not_change_its_sound(tmp_path, monkeypatch):
    whole = write(tmp_path / "a.mp4").read_bytes()
    monkeypatch.setattr("audio.decoding.READ_BLOCK", 701)
    assert write(tmp_path / "b.mp4").read_bytes() == whole


# --- what goes wrong -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ends", [KeyboardInterrupt, ValueError])
def test_an_exception_leaves_the_film_that_was_there_and_nothing_else(ends, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"before")
    with pytest.raises(ends), FilmWriter(tmp_path / "a.mp4", 10, (64, 48), VOICE) as film:
        for _ in range(30):
            film.add(GREY)
        raise ends
    assert (tmp_path / "a.mp4").read_bytes() == b"before" and [one.name for one in tmp_path.iterdir()] == ["a.mp4"]
    assert film._process.poll() is not None


def test_an_encoder_that_ends_is_told_in_one_line(tmp_path):
    with pytest.raises(RuntimeError) as caught, FilmWriter(tmp_path / "a.mp4", 10, (64, 48)) as film:
        film.add(GREY)
        film._process.kill()
        film._process.wait()
        for _ in range(100):
            film.add(GREY)
    assert str(caught.value) == (
        f"the encoder of {tmp_path / 'a.mp4'} ended by SIGKILL, as if memory runs out; run this again"
    )
    assert not list(tmp_path.iterdir())


def answer_of(settings: Settings, rest: bytes = b"") -> dict[str, object] | None:
    asked = settings.to_json() + rest
    process = subprocess.run([sys.executable, encoder_process.__file__], input=asked, capture_output=True, check=True)
    return json.loads(process.stdout) if process.stdout else None


FRAME = encoder_process.MESSAGE.pack(b"F", 64 * 48 * 3) + GREY.tobytes()
END = encoder_process.MESSAGE.pack(b"E", 0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_told_as_such():
    answer = answer_of(Settings("/dev/full", "webm", (10, 1), (64, 48), 48_000, 0), FRAME * 20 + END)
    assert answer and answer["errno"] == errno.ENOSPC


def test_what_the_system_refuses_names_the_film(tmp_path, monkeypatch):
    gone = Settings(str(tmp_path / "gone" / "a.mp4"), "mp4", (10, 1), (64, 48), 48_000, 0)
    monkeypatch.setattr(FilmWriter, "_settings", lambda self, temporary: gone)
    with pytest.raises(OSError) as caught, FilmWriter(tmp_path / "a.mp4", 10, (64, 48)) as film:
        film.add(GREY)
    assert caught.value.errno == errno.ENOENT and caught.value.filename == str(tmp_path / "a.mp4")


def test_a_missing_encoder_is_named(tmp_path, monkeypatch):
    source = Path(encoder_process.__file__).read_text().replace('"libx264"', '"libnone"')
    (tmp_path / "lacking.py").write_text(source)
    monkeypatch.setattr(film_file.encoder_process, "__file__", str(tmp_path / "lacking.py"))
    with pytest.raises(RuntimeError, match="has no encoder libnone for a.mp4"):
        write(tmp_path / "a.mp4")


def test_a_killed_program_leaves_no_half_film(tmp_path):
    settings = Settings(str(tmp_path / "half.mp4"), "mp4", (10, 1), (64, 48), 48_000, 0)
    assert answer_of(settings, FRAME * 20) is None  # the input ends without END
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_after_a_kill_the_temporary_file_goes(tmp_path):
    program = (
        "import os, sys, numpy\nfrom pathlib import Path\nfrom film.film_file import FilmWriter\n"
        "film = FilmWriter(Path(sys.argv[1]), 10, (64, 48)).__enter__()\n"
        "for _ in range(99): film.add(numpy.zeros((48, 64, 3), numpy.uint8))\n"
        f"os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.mp4")], cwd=config.REPO_DIR, check=False)
    deadline = time.monotonic() + 60
    while list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(tmp_path.iterdir())


def test_frames_have_to_be_images_of_one_size(tmp_path):
    with FilmWriter(tmp_path / "a.mp4", 10, (64, 48)) as film:
        film.add(GREY)
        for wrong in (GREY[:, :32], GREY.astype(np.float32), GREY[..., 0]):
            with pytest.raises(ValueError, match="3] uint8 is needed"):
                film.add(wrong)
    assert len(frames_of(tmp_path / "a.mp4")) == 1


def test_a_film_needs_a_frame_and_a_name_of_a_film(tmp_path):
    with pytest.raises(ValueError, match="at least one frame"), FilmWriter(tmp_path / "a.mp4", 10, (64, 48)):
        pass
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="must end in .mp4 or .webm"):
        FilmWriter(tmp_path / "a.avi", 10, (64, 48))


def test_a_sound_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "no.wav").write_text("no sound")
    with pytest.raises(AudioError, match="no.wav: not a recording"):
        write(tmp_path / "a.mp4", sound=tmp_path / "no.wav")
    broken = np.zeros(48_000)
    broken[20_000] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, 48_000, "FLOAT")
    with pytest.raises(AudioError, match="nan.wav: the recording has samples that are not finite"):
        write(tmp_path / "a.mp4", sound=tmp_path / "nan.wav")
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "a.mp4", sound=tmp_path / "gone.wav")
    assert not list(tmp_path.glob("*.mp4")) and not list(tmp_path.glob(".*"))
