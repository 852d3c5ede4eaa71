"""The nodes as ComfyUI shows them: their inputs, and what they call."""

from collections.abc import Mapping
from typing import Any

from .errors import named
from .loading import audio_module
from .measuring import measure
from .model_wrapper import with_noise
from .voice_noise import NAME, VoiceNoise, later_seed

CATEGORY = "voicetoimg"
MODEL_NAME = "Voice Noise to Model"
QUALITIES_NAME = "Voice Qualities"
FROM_VOICE, FROM_SEED = "from the voice", "from the seed"
LARGEST_SEED = 2**53 - 1  # a browser counts exactly up to here
TOOLTIPS = {
    "audio": "A voice: Load Audio, Record Audio, or the sound of a video.",
    "voice_strength": "Share of the voice in the noise. The rest is seeded noise, another for each image of a batch.",
    "later_noise": "Source of the noise that samplers such as euler_ancestral add at later steps.",
    "later_seed": f'Has an effect with later_noise "{FROM_SEED}" only.',
    "calibration": "Folder of your own calibration, such as …/voicetoimg/data/stats. Nothing: the built-in one.",
}
QUALITIES = {  # outputs, and what 0 and 1 are
    "pitch": ("deep", "high"),
    "brightness": ("dark", "bright"),
    "openness": ('closed vowels, as in "see"', 'open ones, as in "far"'),
    "breadth": ("thin", "full"),
    "periodicity": ("breathy", "clear"),
    "harmonics": ("blurred overtones", "ringing ones"),
    "duration": ("short", "long"),
    "motion": ("even", "lively"),
    "rise": ("darkening", "brightening"),
    "onset": ("swelling", "fading"),
}
UNKNOWN = 50.0  # place of a quality that is not known, such as the pitch of a whisper: the middle
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


class VoiceQualitiesNode:
    """Voice Qualities: AUDIO to a STRING and ten FLOAT, lists with one item for each recording."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Tells what a voice is like, for a prompt, the weight of a LoRA or a mask. Each number is the place of this "
        "voice among many of similar length: 0.9 for pitch says that nine of ten voices are deeper. The text says in "
        "words what is clearly not as usual."
    )
    RETURN_TYPES = ("STRING", *("FLOAT" for _ in QUALITIES))
    RETURN_NAMES = ("description", *QUALITIES)
    OUTPUT_TOOLTIPS = (
        "What is clearly not as usual, the strongest first, with places from 0 to 100.",
        *(f"0: {low}; 1: {high}." for low, high in QUALITIES.values()),
    )
    OUTPUT_IS_LIST = tuple(True for _ in RETURN_TYPES)
    FUNCTION = "tell"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """Describe the inputs."""
        return {
            "required": {"audio": ("AUDIO", {"tooltip": TOOLTIPS["audio"]})},
            "optional": {"calibration": ("STRING", {"default": "", "tooltip": TOOLTIPS["calibration"]})},
        }

    def tell(self, audio: Mapping[str, Any] | None, calibration: str = "") -> tuple[list[Any], ...]:
        """Measure the voice of each recording.

        Raises:
            ValueError: the sound or the calibration cannot be used; one sentence, with the name of the node.
        """
        with named(QUALITIES_NAME):
            voices, description = measure(audio, calibration), audio_module("description")
            places = description.places_of(voices.whitening, voices.latents, voices.heard)
            numbers = ([one.get(name, UNKNOWN) / 100 for one in places] for name in QUALITIES)
            return [description.describe(one) for one in places], *numbers


NODE_CLASS_MAPPINGS: dict[str, Any] = {
    "VoicetoimgNoise": VoiceNoiseNode,
    "VoicetoimgNoiseToModel": VoiceNoiseToModelNode,
    "VoicetoimgQualities": VoiceQualitiesNode,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "VoicetoimgNoise": NAME,
    "VoicetoimgNoiseToModel": MODEL_NAME,
    "VoicetoimgQualities": QUALITIES_NAME,
}
