"""The nodes as ComfyUI shows them: their inputs, and what they call."""

from collections.abc import Mapping
from typing import Any

from .errors import named
from .measuring import measure
from .model_wrapper import with_noise
from .voice_noise import NAME, VoiceNoise, later_seed

CATEGORY = "voicetoimg"
MODEL_NAME = "Voice Noise to Model"
FROM_VOICE, FROM_SEED = "from the voice", "from the seed"
LARGEST_SEED = 2**53 - 1  # a browser counts exactly up to here
TOOLTIPS = {
    "audio": "A voice: Load Audio, Record Audio, or the sound of a video.",
    "voice_strength": "Share of the voice in the noise. The rest is seeded noise, another for each image of a batch.",
    "later_noise": "Source of the noise that samplers such as euler_ancestral add at later steps.",
    "later_seed": f'Has an effect with later_noise "{FROM_SEED}" only.',
    "calibration": "Folder of your own calibration, such as …/voicetoimg/data/stats. Nothing: the built-in one.",
}
Inputs = dict[str, dict[str, tuple[Any, ...]]]


class VoiceNoiseNode:
    """Voice Noise: AUDIO to NOISE."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Makes the start noise of any model from a voice: the same voice gives the same noise. Connect it to "
        "SamplerCustomAdvanced, or by Voice Noise to Model to KSampler. Samplers that add no noise, such as euler, "
        "dpmpp_2m or uni_pc, keep the voice. lcm loses it; dpmpp_2m_sde and others lose it on SD3, Flux, Wan and Qwen."
    )
    RETURN_TYPES = ("NOISE",)
    OUTPUT_TOOLTIPS = ("Noise of the shape that the model needs.",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """Describe the inputs."""
        return {
            "required": {
                "audio": ("AUDIO", {"tooltip": TOOLTIPS["audio"]}),
                "voice_strength": (
                    "FLOAT",
                    {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": TOOLTIPS["voice_strength"]},
                ),
                "later_noise": ([FROM_VOICE, FROM_SEED], {"tooltip": TOOLTIPS["later_noise"]}),
                "later_seed": (
                    "INT",
                    {"default": 0, "min": 0, "max": LARGEST_SEED, "tooltip": TOOLTIPS["later_seed"]},
                ),
            },
            "optional": {"calibration": ("STRING", {"default": "", "tooltip": TOOLTIPS["calibration"]})},
        }

    def make(
        self,
        audio: Mapping[str, Any] | None,
        voice_strength: float,
        later_noise: str,
        later_seed: int,
        calibration: str = "",
    ) -> tuple[VoiceNoise]:
        """Measure the voice. The noise itself is made when a sampler asks for it.

        Raises:
            ValueError: the sound, the calibration or the strength cannot be used; one sentence, with the name of the
                node.
        """
        with named(NAME):
            voices = measure(audio, calibration)
            return (VoiceNoise(voices, voice_strength, _later_seed(later_noise, voices.fingerprint, later_seed)),)


def _later_seed(later_noise: str, fingerprint: bytes, seed: int) -> int:
    return later_seed(fingerprint if later_noise == FROM_VOICE else str(seed).encode())


class VoiceNoiseToModelNode:
    """Voice Noise to Model: MODEL and NOISE to a MODEL that starts from this noise."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Makes KSampler, and every other sampler node, start from a voice: connect the model here, and what comes out "
        "to the sampler. The seed of the sampler has no effect then. Of several in a row the last one counts."
    )
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """Describe the inputs."""
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model, after its LoRAs."}),
                "noise": ("NOISE", {"tooltip": "From Voice Noise."}),
            }
        }

    def apply(self, model: Any, noise: Any) -> tuple[Any]:
        """Return a clone of the model that starts from the noise.

        Raises:
            ValueError: this ComfyUI is too old; one sentence, with the name of the node.
        """
        with named(MODEL_NAME):
            return (with_noise(model, noise),)


NODE_CLASS_MAPPINGS: dict[str, Any] = {
    "VoicetoimgNoise": VoiceNoiseNode,
    "VoicetoimgNoiseToModel": VoiceNoiseToModelNode,
}
NODE_DISPLAY_NAME_MAPPINGS = {"VoicetoimgNoise": NAME, "VoicetoimgNoiseToModel": MODEL_NAME}
