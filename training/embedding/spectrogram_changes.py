"""Random changes of spectrograms, as other takes, rooms, noises and microphones make them.

All take and return a batch: decibels or power, [B, bands, columns]. Each spectrogram is changed in its own way, drawn
from torch's random numbers, and some are left as they are: a *chance* is the share of a batch that is changed.
"""

import functools
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from audio.mel import mel_edges
from audio.recipe import RECIPE

CUT_CHANCE, CUT = 0.4, 0.12  # largest share of the columns, at either end
WARP = 0.04, 0.02  # standard deviations of half a period and of a period of a sine, in shares of the columns
PITCH_CHANCE, SEMITONES = 0.6, 0.8  # standard deviation
ROOM_CHANCE, SHORTEST_ROOM, LONGEST_ROOM = 0.4, 1.0, 11.0  # columns after which power has fallen to 1 / e
ECHO_DB = -8.0, 2.0  # of all the reverberation, against the sound itself
ECHOES = 32  # columns that a reverberation lasts at most
NOISE_CHANCE, NOISE_DB = 0.35, (-27.0, 1.0)  # against the louder half of the columns
NOISE_FALL, NOISE_SMOOTH = 6.0, 0.7  # largest fall from the lowest to the highest band, and unevenness: both nepers
BABBLE_CHANCE, BABBLE_DB, TALKERS = 0.4, (-25.0, -1.0), 6
MICROPHONE_CHANCE, MICROPHONE_DB = 0.6, (1.0, 5.0)  # standard deviation of its response
MICROPHONE_POINTS = 7, 11  # of its curve, at fewest and at most
TILT_CHANCE, TILT_DB = 0.25, 3.0  # an octave, standard deviation
BAND_CHANCE, LOW_HZ, HIGH_HZ = 0.2, (100.0, 500.0), (3000.0, 7000.0)
LOW_SLOPE, HIGH_SLOPE = 24.0, 36.0  # dB an octave
GAIN_CHANCE, GAIN_COLUMNS, GAIN_DB = 0.3, 5, 40.0  # the gain follows the mean level of so many columns, so far down
LOWEST_DB = -80.0


def change(decibels: Tensor, others: Tensor) -> Tensor:
    """Change spectrograms as another take in another room, with another microphone, would differ.

    Args:
        decibels: below the loudest cell, [B, bands, columns].
        others: spectrograms of other voices [N, bands, columns], of which babble is made.

    Returns:
        dB below the loudest cell of each, down to LOWEST_DB.
    """
    x = shift_pitch(cut_and_warp(decibels))
    power = reverberate(10 ** (x / 10))
    loud = power.sum(dim=1).sort(dim=1).values[:, power.shape[2] // 2 :].mean(dim=1)[:, None, None]
    kind = torch.rand(len(x), 1, 1)  # of disturbance: noise, babble or none
    noisy, babbling = kind < NOISE_CHANCE, (kind >= NOISE_CHANCE) & (kind < NOISE_CHANCE + BABBLE_CHANCE)
    power = power + noisy * loud * _level(len(x), NOISE_DB) * noise_like(power)
    power = power + babbling * loud * _level(len(x), BABBLE_DB) * babble_like(power, others)
    x = 10 * torch.log10(power.clamp(min=1e-12))
    x = level_automatically(x + microphones(x))
    return (x - x.amax(dim=(1, 2), keepdim=True)).clamp(min=LOWEST_DB)


def _uniform(count: int, between: tuple[float, float]) -> Tensor:
    """Draw numbers [B, 1, 1]."""
    low, high = between
    return low + (high - low) * torch.rand(count, 1, 1)


def _level(count: int, between_db: tuple[float, float]) -> Tensor:
    """Draw factors of power [B, 1, 1] between two levels."""
    return 10 ** (_uniform(count, between_db) / 10)


def _happens(count: int, chance: float) -> Tensor:
    """Draw whether something happens, 0 or 1, [B, 1, 1]."""
    return (torch.rand(count, 1, 1) < chance).float()


def _smooth_curves(count: int, points: int, bands: int) -> Tensor:
    """Draw curves over the bands through normal random points: [B, bands, 1]."""
    return F.interpolate(torch.randn(count, 1, points), bands, mode="linear", align_corners=True).transpose(1, 2)


@functools.cache
def _band_hz(bands: int) -> Tensor:
    """Return the centres of the mel bands, [bands]."""
    return torch.from_numpy(mel_edges(replace(RECIPE, n_mels=bands))[1:-1]).float()


def _interpolated(x: Tensor, position: Tensor, dim: int) -> Tensor:
    """Read x [B, bands, columns] along the dimension 1 or 2 at positions [B, n], linearly between its elements."""
    position = position.clamp(0, x.shape[dim] - 1)
    left = position.long().clamp(max=x.shape[dim] - 2)
    share = position - left
    left, share = (each.unsqueeze(3 - dim) for each in (left, share))
    index = left.expand(-1, *(-1 if d == dim else x.shape[d] for d in (1, 2)))
    return x.gather(dim, index) * (1 - share) + x.gather(dim, index + 1) * share


# --- another take ----------------------------------------------------------------------------------------------------
def cut_and_warp(x: Tensor) -> Tensor:
    """Cut a part off either end, and let time pass unevenly."""
    count, columns = len(x), x.shape[2]
    first, last = (CUT * torch.rand(count, 1) * (torch.rand(count, 1) < CUT_CHANCE) for _ in range(2))
    time = torch.linspace(0, 1, columns).expand(count, -1)
    half, whole = (deviation * torch.randn(count, 1) for deviation in WARP)
    time = time + half * torch.sin(torch.pi * time) + whole * torch.sin(2 * torch.pi * time)
    return _interpolated(x, (first + time.clamp(0, 1) * (1 - last - first)) * (columns - 1), dim=2)


def shift_pitch(x: Tensor) -> Tensor:
    """Move pitch and formants up or down."""
    count, centres = len(x), _band_hz(x.shape[1])
    octaves = torch.randn(count, 1) * SEMITONES / 12 * (torch.rand(count, 1) < PITCH_CHANCE)
    wanted = centres * 2**-octaves  # Hz that each band is read from
    right = torch.searchsorted(centres, wanted.contiguous()).clamp(1, len(centres) - 1)
    share = ((wanted - centres[right - 1]) / (centres[right] - centres[right - 1])).clamp(0, 1)
    return _interpolated(x, right - 1 + share, dim=1)


# --- another place ---------------------------------------------------------------------------------------------------
def reverberate(power: Tensor) -> Tensor:
    """Add the reverberation of a room, which decays exponentially over the columns."""
    count, bands, _ = power.shape
    decay = SHORTEST_ROOM + (LONGEST_ROOM - SHORTEST_ROOM) * torch.rand(count, 1) ** 2
    echo = torch.exp(-torch.arange(1, ECHOES + 1) / decay)
    echo = echo / echo.sum(dim=1, keepdim=True) * _level(count, ECHO_DB)[..., 0] * _happens(count, ROOM_CHANCE)[..., 0]
    kernel = torch.cat([torch.ones(count, 1), echo], dim=1).flip(1)[:, None]  # [B, 1, ECHOES + 1], of power
    padded = F.pad(power, (ECHOES, 0)).transpose(0, 1)  # [bands, B, ·]: a group of the convolution for each of B
    return F.conv1d(padded, kernel, groups=count).transpose(0, 1)


def noise_like(power: Tensor) -> Tensor:
    """Make steady noise that has a random colour and as much power in a column as 1, on average."""
    count, bands, _ = power.shape
    fall = torch.linspace(0, 1, bands)[:, None] * _uniform(count, (0, NOISE_FALL))
    colour = torch.exp(NOISE_SMOOTH * _smooth_curves(count, 8, bands) - fall)
    fluctuation = torch.empty(2, *power.shape).exponential_().mean(dim=0)  # the power of noise in two windows
    return _unit(colour * fluctuation)


def babble_like(power: Tensor, others: Tensor) -> Tensor:
    """Play one to TALKERS of the `others` at once, equally loud, as much power in a column as 1, on average."""
    total = torch.zeros_like(power)
    for _ in range(int(torch.randint(1, TALKERS + 1, ()))):
        voices = others[torch.randint(len(others), (len(power),))]
        later = int(torch.randint(power.shape[2], ()))
        total = total + _unit(10 ** (torch.roll(voices, later, dims=2) / 10))
    return _unit(total)


def _unit(power: Tensor) -> Tensor:
    return power / power.sum(dim=1, keepdim=True).mean(dim=2, keepdim=True)


# --- another microphone ----------------------------------------------------------------------------------------------
def microphones(x: Tensor) -> Tensor:
    """Draw the frequency response of microphones, rooms and telephone lines: dB [B, bands, 1]."""
    count, bands = x.shape[:2]
    hz = _band_hz(bands)[:, None]
    points = int(torch.randint(MICROPHONE_POINTS[0], MICROPHONE_POINTS[1] + 1, ()))
    uneven = _uniform(count, MICROPHONE_DB) * _smooth_curves(count, points, bands)
    response = _happens(count, MICROPHONE_CHANCE) * uneven
    tilt = TILT_DB * torch.randn(count, 1, 1) * torch.log2(hz / 1000)
    response = response + _happens(count, TILT_CHANCE) * tilt
    below = torch.log2(_uniform(count, LOW_HZ) / hz).clamp(min=0)  # octaves below the band that is let through
    above = torch.log2(hz / _uniform(count, HIGH_HZ)).clamp(min=0)
    return response - _happens(count, BAND_CHANCE) * (LOW_SLOPE * below + HIGH_SLOPE * above)


def level_automatically(x: Tensor) -> Tensor:
    """Let an automatic gain take off, in part, what the last columns are louder than the softest."""
    level = 10 * torch.log10((10 ** (x / 10)).sum(dim=1, keepdim=True).clamp(min=1e-12))
    level = level - level.amax(dim=2, keepdim=True)
    followed = F.avg_pool1d(F.pad(level, (GAIN_COLUMNS - 1, 0), mode="replicate"), GAIN_COLUMNS, 1)
    strength = _happens(len(x), GAIN_CHANCE) * torch.rand(len(x), 1, 1)
    return x - strength * followed.clamp(min=-GAIN_DB)
