"""Changes that the embedding of voices must not mind: of spectrograms, and of sound."""

import math

import numpy as np
import pytest
import torch

from audio.features import extract
from tests.training.speakers import RATE, say
from training.embedding import sound_changes, spectrogram_changes
from training.embedding.spectrogram_changes import change, reverberate, shift_pitch


@pytest.fixture
def spectrograms() -> torch.Tensor:
    rng = np.random.default_rng(0)
    voices = [say("aei", hz, 1.0, rng) for hz in (100, 140, 200, 280)]
    vectors = [extract(voice, sample_rate=RATE).vector for voice in voices]
    return torch.from_numpy(np.stack(vectors)).reshape(-1, 64, 64)


def test_changed_spectrograms_are_spectrograms_of_the_same_voice(spectrograms):
    torch.manual_seed(0)
    many = spectrograms.repeat(16, 1, 1)
    changed = change(many, spectrograms)
    assert changed.shape == many.shape and torch.isfinite(changed).all()
    torch.testing.assert_close(changed.amax(dim=(1, 2)), torch.zeros(len(many)))
    assert changed.min() >= -80
    apart = (changed - many).abs().mean(dim=(1, 2))
    assert apart.min() > 0 and (apart.max() > 15) and (apart < 3).sum() > 3  # some hardly, some much
    correlations = [np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in zip(changed, many, strict=True)]
    assert np.median(correlations) > 0.6


def test_changes_follow_from_the_seed(spectrograms):
    first, second, other = (change(spectrograms, spectrograms) for seed in (1, 1, 2) if torch.manual_seed(seed))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_a_raised_pitch_moves_a_tone_up(monkeypatch):
    monkeypatch.setattr(spectrogram_changes, "PITCH_CHANCE", 1.0)
    monkeypatch.setattr(torch, "randn", lambda *shape: torch.full(shape, 12 / spectrogram_changes.SEMITONES))
    tone = torch.full((1, 64, 64), -80.0)
    tone[:, 30] = 0.0
    centres = spectrogram_changes._band_hz(64)
    moved = int(shift_pitch(tone)[0, :, 0].argmax())
    assert centres[moved].item() == pytest.approx(2 * centres[30].item(), rel=0.06)


def test_reverberation_follows_the_sound_and_decays(monkeypatch):
    monkeypatch.setattr(spectrogram_changes, "ROOM_CHANCE", 1.0)
    click = torch.zeros(8, 64, 64)
    click[:, :, 10] = 1.0
    heard = reverberate(click)
    assert (heard[:, :, :10] == 0).all() and torch.allclose(heard[:, :, 10], torch.ones(()))
    assert (heard[:, :, 11:42].diff(dim=2) < 0).all()


@pytest.mark.parametrize("seed", range(6))
def test_changed_sounds_can_be_heard(seed):
    rng = np.random.default_rng(seed)
    sound = say("aei", 120, 1.0, rng)
    changed = sound_changes.change_sound(sound, rng, lambda count: [sound] * count)
    assert changed.dtype == np.float32 and np.isfinite(changed).all() and np.abs(changed).max() > 0.01
    assert 0.6 < len(changed) / len(sound) < 3


def test_noise_is_as_soft_as_it_is_said_to_be():
    rng = np.random.default_rng(0)
    sound = say("aei", 120, 1.0, rng)
    level = sound_changes.loudness(sound)
    noise = sound_changes.with_noise(sound, rng.standard_normal(len(sound)), level, 20) - sound
    assert 20 * math.log10(level / noise.std()) == pytest.approx(20, abs=0.1)
    assert np.std(sound) < level < 1.5 * np.std(sound)  # of the louder half


def test_an_automatic_gain_makes_soft_parts_louder():
    sound = say("a", 120, 1.0, np.random.default_rng(0))
    louder = np.concatenate([0.1 * sound, sound])
    levelled = sound_changes.automatic_gain(louder, 0.005, 0.1)
    soft, loud = (np.std(part) for part in np.split(levelled, [len(sound)]))
    assert soft > 0.4 * loud
