"""The room where voices (audio/) meet a model (ldm/), and the Python API.

From a voice to an image: `load_voice` (audio/features.py, audio/calibration.py) → `initial_noise`
(audio/initial_noise.py, audio/whitening.py) → `paint` (painting/ldm_painter.py, ldm/models/diffusion/sampling.py).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from painting.api import Voice, initial_noise, load_painter, load_voice, paint
    from painting.image_spec import ImageSpec

__all__ = ["ImageSpec", "Voice", "initial_noise", "load_painter", "load_voice", "paint"]


def __getattr__(name: str) -> Any:
    """Import the API when it is first used, so that the command line's options load without torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from painting import api, image_spec

    return getattr(image_spec if name == "ImageSpec" else api, name)
