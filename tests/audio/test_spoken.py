"""Edges of what is spoken in a recording, between silence, noise, clicks and coughs."""

import numpy as np
import pytest
import soundfile

from audio.features import extract, load_audio
from audio.recipe import RECIPE
from tests.recordings import EXAMPLES

RATE = RECIPE.sample_rate
NEAR = 0.15  # seconds


@pytest.fixture(scope="module")
def word() -> np.ndarray:
    """Return a spoken word without silence at its ends."""
    sound = load_audio(next(path for path in EXAMPLES if path.name == "word_de.ogg")).samples
    heard = extract(sound, sample_rate=RATE)
    return sound[round(heard.begin * RATE) : round(heard.end * RATE)]


def noise(seconds: float, level: float) -> np.ndarray:
    return np.random.default_rng(5).normal(0, level, round(seconds * RATE)).astype(np.float32)


def placed(word: np.ndarray, before: float, after: float, snr_db: float) -> np.ndarray:
    """Put a word into noise, `before` and `after` so many seconds of it."""
    sound = np.concatenate([np.zeros(round(before * RATE)), word, np.zeros(round(after * RATE))]).astype(np.float32)
    return sound + noise(len(sound) / RATE, float(np.sqrt(np.mean(word**2.0))) * 10 ** (-snr_db / 20))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(np.maximum(a, -20), np.maximum(b, -20))[0, 1])


@pytest.mark.parametrize(("before", "after"), [(0.5, 0.5), (3, 3), (5, 5), (0, 4), (4, 0)])
@pytest.mark.parametrize("snr_db", [40, 20])
def test_waiting_changes_nothing(word, before, after, snr_db):
    heard = extract(placed(word, before, after, snr_db), sample_rate=RATE)
    assert heard.begin == pytest.approx(before, abs=NEAR)
    assert heard.end == pytest.approx(before + len(word) / RATE, abs=NEAR)
    assert correlation(heard.vector, extract(word, sample_rate=RATE).vector) > 0.9


def test_what_is_kept_is_the_recipe_of_the_windows_that_are_spoken(word):
    """Within digital silence, the windows of the word are those of the word alone."""
    silence = np.zeros(100 * RECIPE.hop_length, np.float32)
    sound = np.concatenate([silence, word, silence])
    heard, alone = extract(sound, sample_rate=RATE), extract(word, sample_rate=RATE, trim=False)
    assert correlation(heard.vector, alone.vector) > 0.97


def test_trim_can_be_left_out(word):
    sound = placed(word, 2, 2, 30)
    whole = extract(sound, sample_rate=RATE, trim=False)
    assert (whole.begin, whole.end) == pytest.approx((0, len(sound) / RATE), abs=2 * RECIPE.hop_length / RATE)
    assert correlation(whole.vector, extract(word, sample_rate=RATE).vector) < 0.7


@pytest.mark.parametrize("distance", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("side", ["before", "after"])
def test_the_click_of_a_key_is_not_the_voice(word, distance, side):
    sound = placed(word, 2, 2, 30)
    click = noise(0.012, float(np.abs(word).max())) * np.exp(-np.arange(round(0.012 * RATE)) / 60)
    at = 2 - distance if side == "before" else 2 + len(word) / RATE + distance
    sound[round(at * RATE) :][: len(click)] += click
    heard = extract(sound, sample_rate=RATE)
    assert heard.begin == pytest.approx(2, abs=NEAR) and heard.end == pytest.approx(2 + len(word) / RATE, abs=NEAR)


def test_a_cough_apart_is_not_the_voice(word):
    sound = placed(word, 2, 2, 30)
    cough = noise(0.3, 0.7 * float(np.abs(word).max())) * np.exp(-np.arange(round(0.3 * RATE)) / (0.08 * RATE))
    sound[: len(cough)] += cough
    assert extract(sound, sample_rate=RATE).begin == pytest.approx(2, abs=NEAR)


def test_two_words_with_a_long_pause_are_both_kept(word):
    pause = np.zeros(round(1.5 * RATE), np.float32)
    sound = np.concatenate([pause, word, pause, word, pause])
    heard = extract(sound + noise(len(sound) / RATE, 1e-4), sample_rate=RATE)
    assert heard.begin == pytest.approx(1.5, abs=NEAR)
    assert heard.end == pytest.approx(3 + 2 * len(word) / RATE, abs=NEAR)


def test_a_whisper_is_kept():
    """A whisper is noise, and nothing in it is periodic."""
    whisper = noise(0.8, 0.1) * np.hanning(round(0.8 * RATE)).astype(np.float32)
    silence = np.zeros(2 * RATE, np.float32)
    heard = extract(np.concatenate([silence, whisper, silence]) + noise(4.8, 1e-3), sample_rate=RATE)
    assert 2 <= heard.begin < 2.3 and 2.5 < heard.end <= 2.9


@pytest.mark.parametrize("seconds", [0.1, 0.25])
def test_a_very_short_recording_stays_whole(seconds):
    tone = np.sin(2 * np.pi * 200 * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)
    with_trim, without = (extract(tone, sample_rate=RATE, trim=trim).vector for trim in (True, False))
    np.testing.assert_array_equal(with_trim, without)


def test_the_rate_of_a_file_does_not_matter(word, tmp_path):
    sound = placed(word, 1, 1, 40)
    soundfile.write(tmp_path / "a.wav", np.repeat(sound, 2), 2 * RATE)
    assert extract(tmp_path / "a.wav").begin == pytest.approx(extract(sound, sample_rate=RATE).begin, abs=NEAR)
