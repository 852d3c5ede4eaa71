"""Errors as one sentence that begins with the name of a node, as ComfyUI shows them."""

import contextlib
from collections.abc import Iterator

from .loading import HERE


@contextlib.contextmanager
def named(node: str) -> Iterator[None]:
    """Turn an error within this block into a ValueError whose message begins with the node's name."""
    try:
        yield
    except (ValueError, OSError, ImportError, MemoryError) as error:
        raise ValueError(f"{node}: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    """Return an error's message on one line, with what to do where only the nodes know it."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"there is too little memory ({text or 'none is left'}); use a shorter recording or smaller latents"
    if isinstance(error, ImportError):
        return (
            f'a package is missing or broken ({text}); run python -m pip install -r "{HERE / "requirements.txt"}" '
            "with the Python that runs ComfyUI"
        )
    return text
