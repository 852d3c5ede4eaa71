"""The network that embeds voices: as torch trains it, and as whole numbers, in which `audio.embedding` computes.

Source: Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference",
2018, arXiv 1712.05877 (batch normalisation is folded into the weights, and weights and activations are rounded).
"""

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval

from audio.embedding import DEPTH_DB, INPUT_STEPS, STRIDE, Layer

KERNELS = (5, 3, 3, 3)  # rows and columns of each convolution's kernel
CHANNELS = 2  # of the input, see `network_input`
HIDDEN, DIRECTION = 256, 128  # outputs of the last two layers
LARGEST_WEIGHT = 1023  # whole numbers: a product of a weight, an activation and 4,096 inputs is exact in float64
USUAL_ACTIVATION = 4092  # all but RARE of a layer's activations are whole numbers up to this one
RARE = 1e-4
BATCH = 256  # spectrograms at a time, where there are many


class VoiceNetwork(nn.Module):
    """Four convolutions and two full layers, which turn a spectrogram into a direction.

    Args:
        widths: channels of the four convolutions.
        size: rows and columns of a spectrogram.
    """

    def __init__(self, widths: Sequence[int], size: int = 64) -> None:
        super().__init__()
        channels = [CHANNELS, *widths]
        convolutions = [
            nn.Conv2d(before, after, kernel, STRIDE, kernel // 2, bias=False)
            for before, after, kernel in zip(channels[:-1], channels[1:], KERNELS, strict=True)
        ]
        cells = (size // STRIDE ** len(KERNELS)) ** 2
        hidden = nn.Linear(channels[-1] * cells, HIDDEN)
        self.layers = nn.ModuleList([*convolutions, hidden])
        self.norms = nn.ModuleList([*(nn.BatchNorm2d(width) for width in widths), nn.BatchNorm1d(HIDDEN)])
        self.last = nn.Linear(HIDDEN, DIRECTION)

    def forward(self, x: Tensor) -> Tensor:
        """Turn `network_input`s [B, 2, n, n] into directions of unit length [B, DIRECTION]."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.relu(norm(layer(_shaped(x, layer))))
        return F.normalize(self.last(x), dim=1)

    def folded(self) -> list[nn.Module]:
        """Return the layers in float64, on the CPU, with the batch normalisation of each in its weights."""
        network = copy.deepcopy(self).cpu().double().eval()
        pairs = zip(network.layers, network.norms, strict=True)
        return [*(_fold(layer, norm) for layer, norm in pairs), network.last]


def _shaped(x: Tensor, layer: nn.Module) -> Tensor:
    """Make a row of each element of a batch if the layer is a product with a matrix."""
    return x.flatten(1) if isinstance(layer, nn.Linear) else x


def _fold(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """Multiply the weights of a layer so that it gives what its batch normalisation does."""
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    if isinstance(layer, nn.Conv2d):
        return fuse_conv_bn_eval(layer, norm)
    assert isinstance(layer, nn.Linear)
    return fuse_linear_bn_eval(layer, norm)


def network_input(spectrograms: np.ndarray) -> Tensor:
    """Scale spectrograms [B, n, n], dB, aligned and without noise, as `Embedding` does: float32 [B, 2, n, n].

    The first channel is 0 for DEPTH_DB below the loudest cell to 1 for it. The second lacks each band's mean over time,
    so that it lacks most of the microphone.
    """
    level = np.clip(spectrograms / DEPTH_DB + 1, 0, 1)
    return torch.from_numpy(np.stack([level, level - level.mean(axis=2, keepdims=True)], axis=1)).float()


@torch.inference_mode()
def directions_of(network: VoiceNetwork, spectrograms: np.ndarray) -> np.ndarray:
    """Embed spectrograms as `network_input` takes them: float64 [B, DIRECTION]."""
    device = network.last.weight.device
    parts = [spectrograms[start : start + BATCH] for start in range(0, len(spectrograms), BATCH)]
    return np.concatenate([network(network_input(part).to(device)).cpu().double().numpy() for part in parts])


# --- whole numbers ---------------------------------------------------------------------------------------------------
@torch.no_grad()
def quantise(network: VoiceNetwork, spectrograms: np.ndarray) -> tuple[Layer, ...]:
    """Round a trained network to whole numbers.

    Weights are multiplied by the power of 2 that takes the largest one just below LARGEST_WEIGHT, and rounded. Results
    of a layer are divided by the power of 2 that takes nearly all of them below USUAL_ACTIVATION.

    Args:
        network: it may be in training mode; its batch normalisation is used as in evaluation.
        spectrograms: examples as `network_input` takes them, which say how large activations are.
    """
    x, scale = network_input(spectrograms).double(), float(INPUT_STEPS)
    layers = []
    *inner, last = network.folded()
    for layer in inner:
        x = F.relu(layer(_shaped(x, layer)))
        usual = max(float(x.flatten().quantile(1 - RARE)), 1e-9)
        wanted = _power_of_2(USUAL_ACTIVATION / usual)
        layers.append(_rounded(layer, scale, wanted))
        scale = wanted
    return (*layers, _rounded(last, scale, None))


def _rounded(layer: nn.Module, scale: float, wanted: float | None) -> Layer:
    """Round a layer whose input was multiplied by `scale`, so that its result is multiplied by `wanted`; None: any."""
    assert isinstance(layer.weight, Tensor) and isinstance(layer.bias, Tensor)
    weights, bias = layer.weight.numpy(), layer.bias.numpy()
    factor = _power_of_2(LARGEST_WEIGHT / np.abs(weights).max())
    shift = 0 if wanted is None else round(math.log2(scale * factor / wanted))
    return Layer(np.rint(weights * factor).astype(np.int16), np.rint(bias * factor * scale).astype(np.int64), shift)


def _power_of_2(limit: float) -> float:
    """Return the largest power of 2 that is not above the limit."""
    return 2.0 ** math.floor(math.log2(limit))
