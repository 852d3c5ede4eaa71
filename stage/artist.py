"""Settings that the artist may change during a show, checked."""

from typing import TYPE_CHECKING, Any

from audio import recorder
from audio.recorder import MicrophoneError
from stage.access import Refusal

if TYPE_CHECKING:
    from stage.show import Show

MOST_STEPS = 250
MOST_PROMPTS, LONGEST_PROMPT = 100, 300
BUDGET = (0.1, 3600.0)  # seconds


def checked(content: dict[str, Any], show: "Show") -> dict[str, Any]:
    """Return the settings that `Show.change` takes.

    Raises:
        Refusal: a value is not allowed.
    """
    settings: dict[str, Any] = {}
    for name, value in content.items():
        settings[name] = _checked(name, value, show)
    return settings


def _checked(name: str, value: Any, show: "Show") -> Any:
    match name, value:
        case "prompts", list() if value and all(isinstance(one, str) for one in value):
            prompts = list(dict.fromkeys(text for one in value if (text := " ".join(one.split()))))
            if 0 < len(prompts) <= MOST_PROMPTS and all(len(p) <= LONGEST_PROMPT and p.isprintable() for p in prompts):
                return prompts
        case (("free_prompt" | "paused"), bool()):
            return value
        case "steps", int() if not isinstance(value, bool) and 1 <= value <= MOST_STEPS and not show.options.budget:
            return value
        case "budget", int() | float() if show.options.budget and BUDGET[0] <= value <= BUDGET[1]:
            return float(value)
        case "microphone", str() if not value or value in microphones():
            return value
    raise Refusal(name if name in ("prompts", "steps", "budget", "microphone") else "unknown", 422)


def microphones() -> dict[str, str]:
    """Return the microphones of this machine: number and description."""
    try:
        return {line.split()[0]: line.strip() for line in recorder.list_microphones()}
    except MicrophoneError:
        return {}
