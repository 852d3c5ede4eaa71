"""Images of any size from a model that samples one: resized, crisp, and cropped to their shape."""

import math

import cv2
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

# The filter. Lengths are in pixels of the image that comes in, levels in −1…1: `python -m benchmarks.enlarging`.
SMOOTHING = 0.7  # standard deviation, so that noise makes no edges
REACH = 1.6  # that edges are drawn in by, times the enlargement above 1
CURVED = 0.14  # levels a pixel², at which a place is clearly on one side of an edge
STEEP = 0.06  # levels a pixel, at which a slope is clearly one of an edge
STEP = 0.5  # pixels of the large image, of one iteration
SQUARE = np.ones((3, 3), np.uint8)
CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def fitted(images: Tensor, height: int, width: int) -> Tensor:
    """Resize images [B, 3, h, w] in −1…1 until they cover `height` × `width`, and cut off what is left over.

    Nothing is stretched. As much is cut off at one side as at the other.
    """
    pixels = rearrange(images.float().cpu(), "b c h w -> b h w c").numpy()
    fit = np.stack([_fitted(image, height, width) for image in pixels])
    return rearrange(torch.from_numpy(fit), "b h w c -> b c h w")


def _fitted(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Fit an image [h, w, 3]."""
    h, w = image.shape[:2]
    factor = max(height / h, width / w)
    size = max(width, round(w * factor)), max(height, round(h * factor))
    if factor > 1:
        image = crisp(_enlarged(image, size), factor)
    else:
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    return image[top : top + height, left : left + width]


def _enlarged(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarge an image [h, w, 3] by cubic interpolation, without the lines that it draws beside edges."""
    darkest, brightest = (cv2.resize(around(image, SQUARE), size) for around in (cv2.erode, cv2.dilate))
    return np.clip(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), darkest, brightest)


def crisp(image: np.ndarray, factor: float) -> np.ndarray:
    """Make the edges of an image [H, W, 3] float32 narrow again that was enlarged `factor` times.

    Each channel grows on the bright side of an edge and shrinks on the dark side, until both meet where the slope
    turns: a shock filter (Osher & Rudin 1990, "Feature-oriented image enhancement using shock filters"), by dilation
    and erosion (Kramer & Bruckner 1975). The sides are those of the smoothed image (Alvarez & Mazorra 1994).
    """
    smooth = cv2.GaussianBlur(image, (0, 0), SMOOTHING * factor)
    dx, dy = cv2.Sobel(smooth, -1, 1, 0, ksize=1) / 2, cv2.Sobel(smooth, -1, 0, 1, ksize=1) / 2
    dxx, dyy = cv2.Sobel(smooth, -1, 2, 0, ksize=1), cv2.Sobel(smooth, -1, 0, 2, ksize=1)
    dxy = cv2.Sobel(smooth, -1, 1, 1, ksize=3) / 4
    steepness = dx * dx + dy * dy
    # the second derivative along the gradient is negative on the bright side
    bend = (dx * dx * dxx + 2 * dx * dy * dxy + dy * dy * dyy) / (steepness + 1e-9)
    side = np.tanh(bend * factor**2 / CURVED) * steepness / (steepness + (STEEP / factor) ** 2)
    bright, share = side < 0, STEP * np.abs(side)
    for _ in range(math.ceil(REACH * (factor - 1) / STEP)):
        image = image + share * (np.where(bright, cv2.dilate(image, CROSS), cv2.erode(image, CROSS)) - image)
    return image
