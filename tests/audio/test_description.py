"""Places of voices among others, and the line that tells them."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

import config
from audio.calibration import voice_latents
from audio.description import FAR, ORDINARY, WORDS, describe, places_of
from audio.qualities import HEARD, NAMES, UNHEARD
from audio.whitening import Whitening
from tests.recordings import EXAMPLES, speech

RATE = 16_000


@pytest.fixture(scope="module")
def whitening() -> Whitening:
    return Whitening.load(config.BUILTIN_CALIBRATION_DIR / "whitening.npz")


def places(whitening: Whitening, samples: np.ndarray, rate: int) -> dict[str, float]:
    made = voice_latents(samples, config.BUILTIN_CALIBRATION_DIR, sample_rate=rate)
    return places_of(whitening, made.latents, [made.heard])[0]


def test_every_quality_has_two_words_of_its_own():
    words = [word for pair in WORDS.values() for word in pair]
    assert tuple(WORDS) == NAMES and len(set(words)) == 2 * len(NAMES)


def test_documents_quote_what_the_program_says(whitening):
    made = voice_latents(config.EXAMPLES_DIR / "voice_fr.wav", config.BUILTIN_CALIBRATION_DIR)
    (found,) = places_of(whitening, made.latents, [made.heard])
    texts = {name: (config.REPO_DIR / name).read_text() for name in ("docs/voice.md", "docs/python.md", "CHANGELOG.md")}
    assert f"\nvoice: {describe(found)}\n" in texts["docs/voice.md"]
    assert f"print(voice.description)  # {describe(found)}\n" in texts["docs/python.md"]
    assert f'print(voice.qualities["pitch"])  # {found["pitch"]:.2f}'[:-1] in texts["docs/python.md"]
    assert f'"{describe(found)}"' in texts["CHANGELOG.md"]
    for name, (low, high) in WORDS.items():
        assert f"| {name} | {low} | {high} |" in texts["docs/voice.md"]


@pytest.mark.parametrize(
    ("places", "line"),
    [
        ({"pitch": 83.4, "brightness": 91.0, "duration": 12.2}, "bright (91 of 100), short (12) and high (83)"),
        ({"pitch": 0.0, "onset": 50.0}, "deep (0 of 100)"),
        ({"rise": 100.0, "motion": 0.2}, "even (0 of 100) and brightening (100)"),
        ({"pitch": 50.0 + FAR - 1, "onset": 50.0 - FAR + 1}, ORDINARY),
        ({"pitch": 50.0 + FAR, "onset": 50.0 - FAR}, "high (80 of 100) and swelling (20)"),
        ({}, ""),
    ],
)
def test_what_is_far_from_the_middle_is_said_and_the_strongest_first(places, line):
    assert describe(places) == line


def test_voices_of_the_calibrations_kind_are_told_apart(whitening):
    """The same sound played faster is a higher, brighter and shorter voice; played slower, the opposite."""
    voice, rate = soundfile.read(config.EXAMPLES_DIR / "voice_en.wav", dtype="float32")
    slow, usual, fast = (places(whitening, voice, round(rate * factor)) for factor in (0.5, 1.0, 1.4))
    for name in ("pitch", "brightness"):
        assert slow[name] < usual[name] < fast[name], name
    assert slow["duration"] > usual["duration"] > fast["duration"]
    assert "deep" in describe(slow) and "high" in describe(fast)
    assert all(0 <= place <= 100 for one in (slow, usual, fast) for place in one.values())


def test_each_quality_of_the_examples_has_a_place(whitening):
    made = [voice_latents(path, config.BUILTIN_CALIBRATION_DIR) for path in EXAMPLES]
    found = places_of(whitening, np.concatenate([one.latents for one in made]), [one.heard for one in made])
    assert [tuple(one) for one in found] == [NAMES] * len(made) == [NAMES] * 8
    for one, alone in zip(made, found, strict=True):
        assert places_of(whitening, one.latents, [one.heard]) == [alone]


def test_what_is_not_known_is_left_out(whitening):
    made = voice_latents(speech(1.0, RATE), config.BUILTIN_CALIBRATION_DIR, sample_rate=RATE)
    told = tuple(name for name in NAMES if name not in HEARD)
    for heard in ((), [UNHEARD]):
        assert tuple(places_of(whitening, made.latents, heard)[0]) == told
    (without_pitch,) = places_of(whitening, made.latents, [replace(made.heard, pitch_hz=0.0)])
    assert tuple(without_pitch) == NAMES[1:]
