"""Contents of the events that tell pages the state of a show."""

from typing import TYPE_CHECKING, Any

from audio.description import describe
from stage.visitors import Visitor

if TYPE_CHECKING:
    from stage.show import Show

SLIDES = 60  # past pictures that the screen shows while nobody speaks


def screen(show: "Show") -> dict[str, Any]:
    """Return all that the screen shows."""
    current = show.current
    return {
        "slides": [card(entry.id, entry.prompt, entry.wave, entry.places) for entry in show.session.shown()[:SLIDES]],
        "paint": {"prompt": current.prompt, "wave": current.wave, "preview": show.rough} if current else None,
        "speak": show.speaking.prompt if show.speaking else None,
        "public": show.public,
    }


def card(id: str, prompt: str, wave: list[int], places: dict[str, float]) -> dict[str, Any]:
    """Return what the screen shows of a picture."""
    return {"id": id, "prompt": prompt, "wave": wave, "voice": describe(places)}


def visitor(show: "Show", visitor: Visitor) -> dict[str, Any]:
    """Return all that the page of a visitor shows."""
    ticket = visitor.ticket
    recording = visitor.recording
    if recording:
        state = "speaking"
    elif ticket:
        state = "painting" if ticket is show.current else "waiting"
    else:
        state = "picture" if visitor.picture else "ready"
    shown = show.find(visitor.picture) if visitor.picture else None
    place = 1 + show.waiting.index(ticket) + bool(show.current) if ticket and ticket in show.waiting else 0
    return {
        "state": state,
        "place": place,
        "prompt": ticket.prompt if ticket else shown[1].prompt if shown else "",
        "advice": ticket.advice if ticket else "",
        "picture": visitor.picture,
        "problem": visitor.problem,
        "recording": recording.id if recording else "",
        "preview": show.rough if ticket and ticket is show.current else "",
        "prompts": show.prompts,
        "free": show.free_prompt,
        "paused": show.paused,
        "ready": show.ready,
        "machine": bool(show.microphone),
        "seconds": show.options.max_seconds,
        "kept": not show.options.discard_audio,
        "public": bool(show.public),
    }


def artist(show: "Show") -> dict[str, Any]:
    """Return all that the artist's page shows."""
    with show.lock:
        return {
            "prompts": show.prompts,
            "free": show.free_prompt,
            "paused": show.paused,
            "ready": show.ready,
            "steps": show.options.steps,
            "budget": show.options.budget,
            "microphone": show.microphone,
            "waiting": [ticket.prompt for ticket in show.waiting],
            "painting": show.current.prompt if show.current else "",
            "speaking": sum(bool(one.recording) for one in show.visitors.values()),
            "pages": show.hub.count(),
            "seconds": [round(seconds, 2) for seconds in show.seconds],
            "errors": [*show.display.errors][::-1],
            "pictures": [
                {"id": entry.id, "prompt": entry.prompt, "hidden": entry.hidden} for entry in show.session.all()
            ],
        }
