"""Tell weights that cannot be those of a trained model: NaN, infinite or absurd numbers, and kernels of zeros."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ldm.tensor_files import extremes, some

HUGE = 65_504.0  # the largest float16; no trained weight comes near it


def broken_weights(tensors: Mapping[str, Tensor]) -> str | None:
    """Say in words which of `tensors` are broken; None if none is. All of them are read."""
    bad: list[str] = []
    huge: list[str] = []
    zeros: list[str] = []
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        low, high = extremes(tensor)
        if not (math.isfinite(low) and math.isfinite(high)):
            bad.append(name)
        elif max(-low, high) > HUGE:
            huge.append(name)
        elif low == high == 0 and tensor.ndim > 1:  # a bias of zeros is common
            zeros.append(name)
    kinds = (("NaN or infinite numbers", bad), ("absurdly large numbers", huge), ("nothing but zeros", zeros))
    found = [f"{len(names)} of {len(tensors)} tensors hold {kind} ({some(names, 3)})" for kind, names in kinds if names]
    return "; ".join(found) or None


def vectors_are_sound(tensors: Iterable[Tensor]) -> bool:
    """Tell whether the one-dimensional tensors hold numbers as in a trained model: biases and norms.

    They are a thousandth of all weights, so this costs almost nothing, and a training that diverged has NaN in all of
    them. NaN elsewhere shows in the image.
    """
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.ndim == 1 and tensor.is_floating_point() and tensor.numel():
            by_dtype.setdefault(tensor.dtype, []).append(tensor)
    # a comparison with NaN is false
    return all(abs(bound) <= HUGE for group in by_dtype.values() for bound in extremes(torch.cat(group)))
