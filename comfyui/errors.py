"""Errors as one sentence that begins with the name of a node, as ComfyUI shows them."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def named(node: str) -> Iterator[None]:
    """Turn an error within this block into a ValueError whose message begins with the node's name."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        raise ValueError(f"{node}: {error}") from error
