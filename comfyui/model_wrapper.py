"""A model of ComfyUI that starts from a given NOISE, whichever sampler node runs it.

ComfyUI calls wrappers of the type OUTER_SAMPLE in place of the sampling itself, with all of its arguments.
"""

from collections.abc import Callable
from typing import Any

KEY = "voicetoimg"


def with_noise(model: Any, noise: Any) -> Any:
    """Return a clone of a MODEL that starts from `noise`, a NOISE.

    Raises:
        ValueError: this ComfyUI is too old for it.
    """
    try:
        from comfy.patcher_extension import WrappersMP
    except ImportError:
        raise ValueError(
            "this ComfyUI is from before December 2024; update it, or connect the noise to SamplerCustomAdvanced"
        ) from None

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, replacing(noise))
    return clone


def replacing(source: Any) -> Callable[..., Any]:
    """Make a wrapper that replaces noise and seed by those of a NOISE, and leaves all other arguments as they are.

    Noise of zeros is left as it is, and its seed: a sampler that goes on where another has stopped adds none.
    """

    def wrapper(
        executor: Callable[..., Any],
        noise: Any,
        latent_image: Any,
        sampler: Any,
        sigmas: Any,
        denoise_mask: Any = None,
        callback: Any = None,
        disable_pbar: bool = False,
        seed: int | None = None,
        *more: Any,
        **others: Any,
    ) -> Any:
        if noise.count_nonzero():
            noise, seed = _noise_for(source, latent_image, others.get("latent_shapes")).to(noise.device), source.seed
        return executor(
            noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, *more, **others
        )

    return wrapper


def _noise_for(source: Any, latents: Any, shapes: Any) -> Any:
    """Ask a NOISE for noise of latents; of nested ones, which come packed into one row, with the `shapes` of parts."""
    if shapes is None or len(shapes) < 2:
        return source.generate_noise({"samples": latents})
    from comfy.nested_tensor import NestedTensor
    from comfy.utils import pack_latents, unpack_latents

    nested = source.generate_noise({"samples": NestedTensor(unpack_latents(latents, shapes))})
    packed, _ = pack_latents(nested.unbind())
    return packed
