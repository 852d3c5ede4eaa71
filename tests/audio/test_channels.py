"""Channels that cancel each other, and inputs without sound."""

import numpy as np
import pytest
import soundfile

from audio.channels import ChannelLevels
from audio.features import AudioError, extract, overview
from tests.recordings import speech

RATE = 16_000
VOICE = speech(2.0, RATE)
NOISE = np.random.default_rng(0).normal(0, 1e-3, (len(VOICE), 18)).astype(np.float32)


def inputs(count: int, used: int) -> np.ndarray:
    """Return a voice on one of several inputs."""
    sound = np.zeros((len(VOICE), count), np.float32)
    sound[:, used] = VOICE
    return sound


CANCELLING = {
    "opposite": (np.stack([VOICE, -VOICE], axis=1), "channel 1 of 2 is used, because the channels cancel each other"),
    "nearly": (np.stack([-0.9 * VOICE, VOICE], 1), "channel 2 of 2 is used, because the channels cancel each other"),
    "8 inputs": (inputs(8, 2), "channel 3 of 8 is used, because the others are silent"),
    "18 inputs": (inputs(18, 17), "channel 18 of 18 is used, because the others are silent"),
    "two of 8": (inputs(8, 2) - inputs(8, 5), "channel 3 of 8 is used, because the channels cancel each other"),
}  # fmt: skip


@pytest.mark.parametrize(("sound", "note"), CANCELLING.values(), ids=CANCELLING)
def test_a_voice_that_the_average_loses_is_taken_from_its_channel(sound, note):
    heard = extract(sound, sample_rate=RATE)
    assert heard.note == note
    np.testing.assert_array_equal(heard.vector, extract(VOICE, sample_rate=RATE).vector)


def test_noise_does_not_take_the_place_of_a_voice():
    for sound in (np.stack([VOICE, -VOICE], axis=1), inputs(8, 2), inputs(18, 17)):
        noisy = sound + NOISE[:, : sound.shape[1]]
        used = int(np.abs(sound).max(axis=0).argmax())
        vector = extract(noisy, sample_rate=RATE).vector
        assert any((vector == extract(noisy[:, c], sample_rate=RATE).vector).all() for c in (used, 1))


def test_two_voices_of_eight_inputs_are_averaged():
    sound = inputs(8, 2)
    sound[:, 5] = VOICE[::-1]
    heard = extract(sound, sample_rate=RATE)
    assert heard.note == "channels 3, 6 are used, because the others are silent"
    np.testing.assert_array_equal(heard.vector, extract(sound[:, [2, 5]], sample_rate=RATE).vector)


@pytest.mark.parametrize("right", [1, 0, -0.3, 0.01], ids=str)
def test_channels_that_do_not_cancel_are_averaged_as_ever(right):
    sound = np.stack([VOICE, np.float32(right) * VOICE], axis=1)
    heard = extract(sound, sample_rate=RATE)
    mean = (sound[:, 0] + sound[:, 1]) / np.float32(2)
    assert not heard.note
    np.testing.assert_array_equal(heard.vector, extract(mean, sample_rate=RATE).vector)


def test_an_offset_and_a_rumble_do_not_choose_a_channel():
    rumble = np.sin(2 * np.pi * 20 * np.arange(len(VOICE)) / RATE).astype(np.float32)
    levels = ChannelLevels(RATE, 2)
    levels.add(np.stack([VOICE + 0.3 * rumble, 0.5 + 0.3 * rumble - VOICE], axis=1))
    assert len(levels.choice().used) == 1


def test_the_choice_does_not_depend_on_blocks():
    whole, pieces = ChannelLevels(44_100, 2), ChannelLevels(44_100, 2)
    sound = np.stack([VOICE, -VOICE], axis=1) + NOISE[:, :2]
    whole.add(sound)
    for block in np.array_split(sound, 999):
        pieces.add(block)
    np.testing.assert_allclose(pieces._products, whole._products, rtol=1e-4)


def test_the_channel_that_is_asked_for(tmp_path):
    sound = np.stack([VOICE, VOICE[::-1]], axis=1)
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    heard = extract(tmp_path / "a.wav", channel=2)
    assert not heard.note
    np.testing.assert_array_equal(heard.vector, extract(sound[:, 1], sample_rate=RATE).vector)
    drawn, _ = overview(tmp_path / "a.wav", 50, (0.0, heard.seconds), channel=2)
    np.testing.assert_allclose(
        drawn[1][::-1], overview(tmp_path / "a.wav", 50, (0.0, heard.seconds), channel=1)[0][1], atol=0.1
    )
    for number in (0, 3):
        with pytest.raises(AudioError, match=f"the recording has 2 channels; there is no channel {number}"):
            extract(tmp_path / "a.wav", channel=number)
    with pytest.raises(AudioError, match="the recording has 1 channel; there is no channel 2"):
        extract(VOICE, sample_rate=RATE, channel=2)
