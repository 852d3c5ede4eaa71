"""The level meter and the end of speech, on synthetic sound."""

import numpy as np
import pytest
import soundfile

import config
from live.meter import Meter, SpeechEnd, bar

RATE = 16_000
VOICE = config.EXAMPLES_DIR / "voice_it.wav"


def tone(seconds: float, dbfs: float) -> np.ndarray:
    """Return a sine whose root mean square is `dbfs`."""
    times = np.arange(round(seconds * RATE)) / RATE
    return (np.sin(2 * np.pi * 440 * times) * 2**0.5 * 10 ** (dbfs / 20)).astype(np.float32)


def noise(seconds: float, dbfs: float) -> np.ndarray:
    random = np.random.default_rng(0)
    return (random.standard_normal(round(seconds * RATE)) * 10 ** (dbfs / 20)).astype(np.float32)


def fed(meter: Meter, samples: np.ndarray, clipped: int = 0) -> Meter:
    for block in np.split(samples, range(160, len(samples), 160)):
        meter.add(block, clipped)
        clipped = 0
    return meter


def test_level_is_of_now_and_the_peak_is_held_and_falls():
    meter = fed(Meter(RATE), tone(0.5, -12))
    assert "-12.0 dBFS  peak   -9.0" in meter.line(80)
    fed(meter, tone(1.0, -40))
    line = meter.line(80)
    assert "peak   -9.0" in line
    assert float(line.split(" s ")[1].split()[0]) == pytest.approx(
        -40, abs=1.5
    )  # the filter rings when a tone breaks off
    fed(meter, tone(1.5, -40))  # 2.5 s after the peak: held for 1.5, then 20 dB a second
    assert float(meter.line(80).split("peak")[1].split()[0]) == pytest.approx(-29, abs=1.5)
    assert meter.rms_dbfs == pytest.approx(10 * np.log10((0.4 * 10**-1.2 + 2.5 * 10**-4) / 2.9), abs=0.1)


def test_the_line_fits_any_width():
    for width in range(200):
        line = fed(Meter(RATE), tone(0.5, -12), clipped=1).line(width)
        assert len(line) <= width and "\n" not in line
        assert "CLIP" in line or width < 8


def test_clipping_is_shown_for_a_while():
    meter = fed(Meter(RATE), tone(0.5, -12), clipped=1)
    assert "CLIP" in meter.line(80) and "clipping" in meter.plain()
    assert "CLIP" not in fed(meter, tone(2, -12)).line(80)


@pytest.mark.parametrize(
    ("level", "peak", "drawn"), [(-120, -120, "----------"), (-30, -12, "#####--|--"), (0, 3, "#########|")]
)
def test_bar(level, peak, drawn):
    assert bar(level, peak, 10) == drawn


@pytest.mark.parametrize(
    ("samples", "clipped", "word"),
    [(tone(1, -80), 0, "silent"), (tone(1, -40), 0, "low"), (tone(1, -12), 0, "good"), (tone(1, -1), 0, "high"),
     (tone(1, -3), 500, "clipping")],
)  # fmt: skip
def test_verdict(samples, clipped, word):
    assert fed(Meter(RATE), samples, clipped).verdict().startswith(word + ":")


@pytest.mark.parametrize(("level", "word"), [(-21, "low"), (-20, "good"), (-6, "good"), (-5, "high")])
def test_a_verdict_names_the_range_that_is_good(level, word):
    meter = Meter(RATE)
    meter.peak = 10 ** (level / 20)
    assert f"{word}: the loudest was {level} dBFS (-20 to -6 dBFS is good)" in meter.verdict()


def test_unusable_recordings_have_a_fault():
    assert "0.29 s" in fed(Meter(RATE), tone(0.29, -12)).fault
    assert "No sound recorded." in fed(Meter(RATE), tone(1, -60)).fault
    assert fed(Meter(RATE), tone(0.31, -40)).fault == ""


TIMES = np.arange(RATE) / RATE
LOW = {
    "offset": np.full(RATE, 0.3, np.float32),
    "rumble": (0.3 * np.sin(2 * np.pi * 25 * TIMES)).astype(np.float32),
    "hum": (0.1 * np.sin(2 * np.pi * 50 * TIMES)).astype(np.float32),
}


@pytest.mark.parametrize("low", LOW.values(), ids=LOW)
def test_an_offset_rumble_and_hum_are_no_sound(low):
    assert "No sound recorded." in fed(Meter(RATE), low).fault
    assert fed(Meter(RATE), low + tone(1, -40)).verdict().startswith("low:")


def test_clipping_is_counted_in_the_sound_as_it_is():
    assert fed(Meter(RATE), LOW["offset"] + tone(1, -40), 500).verdict().startswith("clipping:")


def ends_after(samples: np.ndarray, silence: float) -> float | None:
    """Return the second at which the end of speech is noticed."""
    speech = SpeechEnd(RATE, silence)
    for number, block in enumerate(np.split(samples, range(160, len(samples), 160)), start=1):
        speech.add(block)
        if speech.reached:
            return number * 160 / RATE
    return None


@pytest.mark.parametrize("room", [-90, -60, -45, -35])
def test_speech_ends_in_any_room(room):
    samples, rate = soundfile.read(VOICE, dtype="float32")
    voice = np.interp(np.arange(0, len(samples) / rate, 1 / RATE), np.arange(len(samples)) / rate, samples)
    sound = np.concatenate([np.zeros(2 * RATE), voice, np.zeros(3 * RATE)])
    end = ends_after((sound + noise(len(sound) / RATE, room)[: len(sound)]).astype(np.float32), 1.0)
    spoken = 2 + len(voice) / RATE
    assert end and spoken + 0.5 < end < spoken + 1.6


@pytest.mark.parametrize("low", [*LOW, "hum with lines"])
def test_speech_ends_though_an_offset_rumble_or_hum_goes_on(low):
    samples, rate = soundfile.read(VOICE, dtype="float32")
    voice = np.interp(np.arange(0, len(samples) / rate, 1 / RATE), np.arange(len(samples)) / rate, samples)
    sound = np.concatenate([np.zeros(RATE), voice, np.zeros(3 * RATE)])
    times = np.arange(len(sound)) / RATE
    lines = sum(0.1 / n * np.sin(2 * np.pi * 60 * n * times) for n in range(1, 9))
    end = ends_after((sound + (np.resize(LOW[low], len(sound)) if low in LOW else lines)).astype(np.float32), 1.0)
    spoken = 1 + len(voice) / RATE
    assert end and spoken + 0.5 < end < spoken + 1.6


def test_silence_before_speech_and_a_held_tone_are_no_end():
    assert ends_after(noise(10, -60), 0.5) is None
    assert ends_after(np.concatenate([noise(1, -60), tone(9, -20)]), 0.5) is None
    click = np.concatenate([noise(1, -60), tone(0.05, -10), noise(5, -60)])
    assert ends_after(click, 0.5) is None
