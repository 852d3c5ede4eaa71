"""Prompts that change at times of a film: lines such as "0:12.5 a blue butterfly"."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

TIME = re.compile(r"(?:(\d{1,3}):)?(\d{1,3}):(\d{2}(?:\.\d{1,3})?)")
EXAMPLE = "such as: 0:12.5 a blue butterfly"


@dataclass(frozen=True)
class Cue:
    """A prompt, and the time from which on a film shows it."""

    seconds: float
    prompt: str


def read_cues(lines: Sequence[str]) -> list[Cue]:
    """Read lines, each a time (M:SS, M:SS.5 or H:MM:SS) and a prompt.

    Raises:
        ValueError: a line is something else, the first one does not begin at 0:00, or the times do not rise.
    """
    cues: list[Cue] = []
    for line in lines:
        time, _, prompt = line.partition(" ")
        match = TIME.fullmatch(time)
        if not match or float(match[3]) >= 60 or (match[1] and int(match[2]) >= 60):
            raise ValueError(
                f"the line {line!r} does not begin with a time; each line is a time and a prompt, {EXAMPLE}"
            )
        seconds = int(match[1] or 0) * 3600 + int(match[2]) * 60 + float(match[3])
        if not prompt.strip():
            raise ValueError(f"the line {line!r} has no prompt; each line is a time and a prompt, {EXAMPLE}")
        if cues and seconds <= cues[-1].seconds:
            raise ValueError(f"the line {line!r} is not later than the one before it; times must rise")
        cues.append(Cue(seconds, prompt.strip()))
    if not cues or cues[0].seconds > 0:
        raise ValueError(f"the first prompt must begin at 0:00; {EXAMPLE.replace('0:12.5', '0:00')}")
    return cues


def time_text(seconds: float) -> str:
    """Format a time as `read_cues` reads it, to thousandths of a second: 0:12.5, 1:02:03."""
    minutes, rest = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:06.3f}".rstrip("0").rstrip(".")
    return f"{hours}:{minutes:02}:{text}" if hours else f"{minutes}:{text}"


def weights_at(cues: Sequence[Cue], time: float, fade: float, circle: float = 0.0) -> list[tuple[int, float]]:
    """Return the cues that a time in seconds shows, with weights that sum to 1.

    From its own time on a prompt comes in over `fade` seconds, or at once if `fade` is 0.

    Args:
        cues: of the film.
        time: in seconds.
        fade: in seconds.
        circle: seconds after which the film begins again, and its first prompt comes in after its last one; 0: never.
    """
    begins = [(number, cue.seconds) for number, cue in enumerate(cues) if not circle or cue.seconds < circle]
    if circle:
        begins = [(number, seconds - circle) for number, seconds in begins] + begins
    weights, left = dict.fromkeys(range(len(cues)), 0.0), 1.0
    for place, (number, seconds) in reversed(list(enumerate(begins))):
        if time < seconds:
            continue
        # evenly, because a model paints mostly one prompt until nearly half of the other is there
        own = min((time - seconds) / fade, 1.0) if fade and place else 1.0
        weights[number] += left * own
        left *= 1 - own
    return sorted(((number, weight) for number, weight in weights.items() if weight > 0), reverse=True)
