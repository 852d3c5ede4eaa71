"""Visitors, and what they wait for."""

import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from live.pipeline import Take
from stage.recordings import Recording


@dataclass
class Ticket:
    """A finished recording on its way to an image."""

    id: str  # of the image
    visitor: "Visitor"
    prompt: str
    recording: Recording
    wave: list[int]
    advice: str  # code, or ""
    image: Path | None = None  # once it is there
    take: Take | None = None  # once it is painted

    @property
    def places(self) -> dict[str, float]:
        """Places of the voice's qualities, once they are known: `audio.description.places_of`."""
        return self.take.places if self.take else {}


@dataclass
class Visitor:
    """One browser."""

    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    seen: float = field(default_factory=time.monotonic)
    recording: Recording | None = None
    finished: tuple[str, dict[str, Any]] = ("", {})  # id of the last recording, and its verdict
    prompt: str = ""  # of the recording
    ticket: Ticket | None = None  # waits or is painted
    picture: str = ""  # id of a finished image that is still shown
    problem: str = ""  # code of what went wrong, shown until the next recording
    since: float = 0.0  # time.monotonic() at which the picture came

    @property
    def topic(self) -> str:
        """Topic of its events."""
        return f"visitor {self.id}"
