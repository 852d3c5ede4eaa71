"""A pack of ComfyUI for `benchmarks.comfyui`: tiny random models, and a node that samples from them with voices.

It runs in ComfyUI's own process, as a file in custom_nodes, and imports nothing of this project.
"""

import hashlib
import importlib.util
import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_base
import comfy.model_patcher
import comfy.samplers
import comfy.supported_models
import nodes
import torch

SAMPLERS = ("euler", "dpmpp_2m", "euler_ancestral", "dpmpp_2m_sde")
STEPS = (4, 20)
REPEATS = 9
UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
    "channel_mult": [1, 2], "transformer_depth": [0, 1], "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0, 1, 1], "use_spatial_transformer": True, "context_dim": 32, "num_heads": 4,
    "legacy": False, "dtype": torch.float32,
}  # fmt: skip
FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 32, "context_in_dim": 32,
    "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1,
    "axes_dim": [8, 12, 12], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": False,
    "dtype": torch.float32,
}  # fmt: skip


def tiny_model(kind: str) -> Any:
    """Make a MODEL of ComfyUI's own classes with random weights: "eps", "v" or "flow"."""
    if kind == "flow":
        model = comfy.supported_models.FluxSchnell(FLUX).get_model({})
    else:
        types = comfy.model_base.ModelType
        config = comfy.supported_models.SD15(UNET)
        model = comfy.model_base.BaseModel(config, {"eps": types.EPS, "v": types.V_PREDICTION}[kind])
    generator = torch.Generator().manual_seed(0)
    for weights in model.parameters():
        weights.requires_grad_(False)
        spread = 0.5 * weights[0].numel() ** -0.5 if weights.ndim > 1 else 0.02  # small answers: the voice decides
        weights.copy_(torch.randn(weights.shape, generator=generator) * spread)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model.eval(), cpu, cpu)


def conditioning(text: str) -> Any:
    """Return a CONDITIONING that depends on a text."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    drawn = torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(seed))
    return [[drawn[:, :8], {"pooled_output": drawn[:, 8]}]]


class TinyCheckpoint:
    """In the place of Load Checkpoint: a tiny model, a text encoder and an autoencoder, all random."""

    CATEGORY, FUNCTION = "voicetoimg", "load"
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")

    @classmethod
    def INPUT_TYPES(cls) -> Any:
        """Describe the inputs."""
        return {"required": {"ckpt_name": ("STRING", {})}}

    def load(self, ckpt_name: str) -> Any:
        """Choose by the name that a workflow gives."""
        clip = SimpleNamespace(tokenize=str, encode_from_tokens_scheduled=conditioning)
        return tiny_model("flow" if "flux" in ckpt_name else "eps"), clip, SimpleNamespace(decode=decode)


def decode(latents: torch.Tensor) -> torch.Tensor:
    """Turn latents [B, C, h, w] into images [B, 8h, 8w, 3] in 0…1."""
    mixing = torch.randn(latents.shape[1], 3, generator=torch.Generator().manual_seed(0))
    pixels = torch.sigmoid(torch.einsum("bchw,cr->bhwr", latents, mixing))
    return pixels.repeat_interleave(8, 1).repeat_interleave(8, 2)


class TinyTrial:
    """Sample from each model with two voices, in both ways, and report figures as JSON."""

    CATEGORY, FUNCTION, OUTPUT_NODE = "voicetoimg", "run", True
    RETURN_TYPES = ()

    @classmethod
    def INPUT_TYPES(cls) -> Any:
        """Describe the inputs."""
        return {"required": {"voice": ("AUDIO", {}), "other": ("AUDIO", {})}}

    def run(self, voice: Any, other: Any) -> Any:
        """Return the figures as ComfyUI's history holds them."""
        noises = [voice_noise(audio) for audio in (voice, voice, other)]
        rows = []
        for kind in ("eps", "v", "flow"):
            model = tiny_model(kind)
            for sampler, steps in itertools.product(SAMPLERS, STEPS):
                rows.append({"model": kind, "sampler": sampler, "steps": steps, **trial(model, noises, sampler, steps)})
        return {"ui": {"report": [json.dumps({"rows": rows, **times(voice)})]}}


def voice_noise(audio: Any) -> Any:
    """Run Voice Noise as a workflow does."""
    return nodes.NODE_CLASS_MAPPINGS["VoicetoimgNoise"]().make(audio, 1.0, "from the voice", 0)[0]


def trial(model: Any, noises: Any, sampler: str, steps: int) -> dict[str, Any]:
    """Sample with noise of a voice, of the same voice again, and of another one."""
    latent = nodes.EmptyLatentImage().generate(256, 256, 1)[0]
    seen: list[torch.Tensor] = []
    network = model.model.diffusion_model
    hook = network.register_forward_pre_hook(lambda _, given: seen.append(given[0][:1].clone()))
    first, again, different = (by_noise(model, noise, latent, sampler, steps) for noise in noises)
    hook.remove()
    made = noises[0].generate_noise({"samples": torch.zeros(seen[0].shape)})
    return {
        "network sees": correlation(seen[0], made),
        "same voice": torch.equal(first, again),
        "two voices": correlation(first, different),
        "both ways": all(torch.equal(first, by_model(model, noises[0], latent, sampler, steps, n)) for n in (0, 1)),
        "finite": bool(torch.isfinite(first).all()),
    }


def by_noise(model: Any, noise: Any, latent: Any, sampler: str, steps: int) -> torch.Tensor:
    """Sample by SamplerCustomAdvanced."""
    known = nodes.NODE_CLASS_MAPPINGS
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(conditioning("a"), conditioning("b"))
    guider.set_cfg(4.0)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)
    chosen = comfy.samplers.sampler_object(sampler)
    advanced = known["SamplerCustomAdvanced"]
    run = advanced.execute if hasattr(advanced, "execute") else advanced().sample
    return outputs(run(noise, guider, chosen, sigmas, latent))[0]["samples"]


def by_model(model: Any, noise: Any, latent: Any, sampler: str, steps: int, seed: int) -> torch.Tensor:
    """Sample by Voice Noise to Model and KSampler."""
    (changed,) = nodes.NODE_CLASS_MAPPINGS["VoicetoimgNoiseToModel"]().apply(model, noise)
    texts = conditioning("a"), conditioning("b")
    return nodes.KSampler().sample(changed, seed, steps, 4.0, sampler, "normal", *texts, latent)[0]["samples"]


def outputs(result: Any) -> Any:
    """Return the outputs of a node of either kind of definition."""
    return getattr(result, "args", result)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Compute Pearson's correlation of all elements."""
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def times(voice: Any) -> dict[str, float]:
    """Time Voice Noise for 5 s of sound and latents of 1024² pixels, and the loading of the pack."""
    rate = voice["sample_rate"]
    five = voice["waveform"].repeat(1, 1, 5 * rate // voice["waveform"].shape[2] + 1)[:, :, : 5 * rate]
    latent = {"samples": torch.zeros(1, 16, 128, 128)}
    taken = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        voice_noise({"waveform": five, "sample_rate": rate}).generate_noise(latent)
        taken.append(time.perf_counter() - start)
    return {"first seconds": taken[0], "seconds": statistics.median(taken[1:]), "loading": loading()}


def loading() -> float:
    """Time the loading of the pack under another name, as when ComfyUI starts."""
    pack = sys.modules[nodes.NODE_CLASS_MAPPINGS["VoicetoimgNoise"].__module__.rpartition(".")[0]]
    spec = importlib.util.spec_from_file_location("voicetoimg_again", Path(str(pack.__file__)))
    assert spec and spec.loader
    start = time.perf_counter()
    module = importlib.util.module_from_spec(spec)
    sys.modules["voicetoimg_again"] = module
    spec.loader.exec_module(module)
    return time.perf_counter() - start


NODE_CLASS_MAPPINGS = {"TinyCheckpoint": TinyCheckpoint, "TinyTrial": TinyTrial}
