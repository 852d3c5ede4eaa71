"""Named colours, perceptual interpolation between them, and palettes as look-up tables."""

import numpy as np

from painting.colours import LMS_TO_LAB, RGB_TO_LMS, srgb_to_oklab
from training.scenes.fields import three_channels

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (218, 24, 36),
    "coral": (255, 118, 98),
    "orange": (248, 128, 12),
    "yellow": (254, 230, 40),
    "gold": (212, 164, 44),
    "cream": (247, 228, 190),
    "brown": (116, 66, 32),
    "maroon": (104, 8, 32),
    "lime": (164, 232, 40),
    "green": (24, 150, 56),
    "olive": (118, 124, 34),
    "mint": (162, 240, 196),
    "teal": (4, 116, 118),
    "turquoise": (46, 208, 190),
    "cyan": (60, 206, 252),
    "blue": (28, 92, 236),
    "navy": (14, 26, 96),
    "indigo": (72, 28, 168),
    "violet": (142, 84, 246),
    "lavender": (200, 176, 248),
    "purple": (136, 22, 146),
    "magenta": (234, 24, 172),
    "pink": (252, 156, 196),
    "black": (14, 13, 18),
    "white": (246, 246, 244),
    "grey": (134, 138, 146),
}
"""Canonical colour names and their sRGB values (0..255)."""

LUT_SIZE = 1024

_LMS_TO_RGB = np.linalg.inv(RGB_TO_LMS)
_LAB_TO_LMS = np.linalg.inv(LMS_TO_LAB)


def oklab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """Convert Oklab `[..., 3]` to sRGB `[..., 3]`, clipped to 0..1."""
    linear = np.clip((lab @ _LAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


COLOURS_OKLAB: dict[str, np.ndarray] = {name: srgb_to_oklab(np.array(c) / 255) for name, c in COLOURS.items()}


def colour_distance(first: str, second: str) -> float:
    """Compute the Euclidean distance of two named colours in Oklab: 0.1 is clearly different, 1 is black to white."""
    return float(np.linalg.norm(COLOURS_OKLAB[first] - COLOURS_OKLAB[second]))


def jittered(name: str, rng: np.random.Generator) -> np.ndarray:
    """Move the Oklab value `[3]` of a named colour by a little, so that the name still fits."""
    return COLOURS_OKLAB[name] + rng.uniform(-1, 1, 3) * (0.022, 0.012, 0.012)


def shade(lab: np.ndarray, amount: float) -> np.ndarray:
    """Make Oklab `[3]` lighter (amount > 0) or darker (amount < 0); highlights fade to white, shadows keep chroma."""
    lightness = np.clip(lab[0] + amount, 0.06, 0.985)
    chroma = 1 - 0.9 * max(amount, 0) if amount > 0 else 1 + 0.35 * amount
    return np.array([lightness, lab[1] * chroma, lab[2] * chroma])


def ramp(lab: np.ndarray, depth: float = 0.2) -> np.ndarray:
    """Make a look-up table `[LUT_SIZE, 3]` (sRGB 0..1, float32) from a colour's shadow over the colour to its light."""
    stops = np.array([shade(lab, -depth), lab, lab, shade(lab, depth)])
    return _interpolated(stops, np.array([0.0, 0.4, 0.6, 1.0]))


def banded_lut(labs: list[np.ndarray], gap: np.ndarray | None, relief: float = 0.05) -> np.ndarray:
    """Make a look-up table `[LUT_SIZE, 3]` (sRGB 0..1, float32) in which each colour has a broad band.

    Broad bands with short transitions keep the named colours dominant. A plain gradient between complementary
    colours would mostly consist of greys that the prompt does not name.

    Args:
        labs: Oklab colours `[3]` in order.
        gap: Oklab colour of a thin line between neighbouring bands, or None for a plain transition.
        relief: change of lightness across a band.
    """
    stops, places = [], []
    width = 1 / len(labs)
    for i, lab in enumerate(labs):
        start, margin = i * width, width * (0.17 if gap is None else 0.21)
        low = start + (margin if i else 0)
        high = start + width - (margin if i < len(labs) - 1 else 0)
        if i and gap is not None:
            stops.append(gap)
            places.append(start)
        stops += [shade(lab, -relief), lab, shade(lab, relief)]
        places += [low, (low + high) / 2, high]
    return _interpolated(np.array(stops), np.array(places))


def _interpolated(stops: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Interpolate Oklab `stops` `[N, 3]` at `places` `[N]` in 0..1 to a table `[LUT_SIZE, 3]` in sRGB."""
    t = np.linspace(0, 1, LUT_SIZE)
    lab = np.stack([np.interp(t, places, stops[:, k]) for k in range(3)], axis=1)
    return oklab_to_srgb(lab).astype(np.float32)


def apply_lut(lut: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Map a field `[H, W]` in 0..1 through a look-up table `[LUT_SIZE, 3]` to colours `[H, W, 3]` float32."""
    index = np.clip(field * np.float32(LUT_SIZE - 1) + np.float32(0.5), 0, LUT_SIZE - 1).astype(np.int32)
    return np.take(lut, index, axis=0)


def apply_lut_filtered(lut: np.ndarray, field: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Apply a look-up table, but average it over `field` +- `width / 2`, both `[H, W]`, for each pixel.

    If the width is the change of the field across a pixel, thin bands of the table never alias. The mean comes from
    running sums of the table, as in a summed-area table (Crow 1984), so its cost does not depend on the width.
    """
    pad = LUT_SIZE // 2
    sums = np.cumsum(np.pad(lut, ((pad + 1, pad), (0, 0)), mode="edge"), axis=0, dtype=np.float64).astype(np.float32)
    centre = field * np.float32(LUT_SIZE - 1)
    half = np.clip(width * np.float32(LUT_SIZE / 2), 0.5, pad)
    low = np.clip(centre - half + np.float32(0.5), -pad, LUT_SIZE - 1).astype(np.int32)
    high = np.maximum(np.clip(centre + half + np.float32(0.5), 0, LUT_SIZE - 1 + pad).astype(np.int32), low + 1)
    share = 1 / (high - low).astype(np.float32)
    return (np.take(sums, high + pad, axis=0) - np.take(sums, low + pad, axis=0)) * three_channels(share)
