"""The content of each frame of a film: its start noise, its prompts, and its shapes."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from film.cues import Cue, weights_at
from film.pace import paced
from film.path import Path
from film.shapes import RATE, passing, steady
from painting.image_spec import ImageSpec
from painting.painter import OnStep, Painter, PaintingNote, PaintJob, Transition, TransitionPainter

PASSAGE = 2 / 3  # of the seconds of smoothing, in which one shape passes into the next
ABRUPT, ABRUPT_AT, ABRUPT_WIDTH = 1.8, 0.65, 0.08  # fitted to the frames of a film; see `abruptness`
AT_ONCE = 32  # moments that are looked at together


@dataclass(frozen=True)
class FilmSettings:
    """All that decides the frames of a film, beside the windows and the sound."""

    image: ImageSpec  # of all frames; its prompt is that of the first cue
    cues: tuple[Cue, ...]
    fps: int
    seconds: float
    smooth: float = 1.5
    loop: bool = False
    draft: bool = False  # without fine detail, if the painter can leave it out

    @property
    def frames(self) -> int:
        """Number of frames."""
        return max(1, round(self.seconds * self.fps))


class Scenario:
    """The frames of one film, as a painter gets them."""

    def __init__(self, settings: FilmSettings, path: Path, painter: Painter) -> None:
        """Prepare a film whose frames follow the recording at an even pace; `follow` changes the pace."""
        self.settings, self.path, self.painter = settings, path, painter
        self.moments = np.arange(settings.frames) / settings.fps  # of each frame, seconds
        self._specs = [replace(settings.image, prompt=cue.prompt) for cue in settings.cues]
        self._shapes: np.ndarray | None = None  # [T] of the shapes that are chosen, RATE times a second
        self._kinds = 0
        self._passes = isinstance(painter, TransitionPainter)
        if not self._passes and len(self._specs) > 1:
            note = "with this model the image changes at once where one prompt follows another"
            warnings.warn(note, PaintingNote, stacklevel=2)

    def prepare(self) -> Iterator[float]:
        """Choose the shapes of the film; yield the share that is done.

        Without smoothing each frame has the shape that its own start noise chooses.
        """
        if not self.settings.smooth or not isinstance(self.painter, TransitionPainter):
            return
        count = int(np.ceil(self.settings.seconds * RATE)) + (0 if self.settings.loop else 1)
        scores = []
        for start in range(0, count, AT_ONCE):
            moments = np.arange(start, min(start + AT_ONCE, count)) / RATE
            scores.append(self.painter.shape_scores(self._noise(moments)))
            if not scores[0].size:
                return
            yield min(start + AT_ONCE, count) / count
        table = np.concatenate(scores)
        self._kinds = table.shape[1]
        # in a circle three rounds, of which the middle one knows what comes before and after it
        self._shapes = steady(np.concatenate([table] * 3) if self.settings.loop else table)

    def lengths(self) -> Iterator[float]:
        """Yield how much the image changes from each frame to the next, by the painter's outlines."""
        before: tuple[np.ndarray, float] | None = None
        for start in range(0, len(self.moments), AT_ONCE):
            frames = range(start, min(start + AT_ONCE, len(self.moments)))
            x_T, transitions = self.x_T(frames), self.transitions(frames)
            if isinstance(self.painter, TransitionPainter):
                outlines = self.painter.outlines(transitions, x_T)
            else:
                outlines = x_T.numpy()
            for outline, abrupt in zip(outlines, map(abruptness, transitions), strict=True):
                if before is not None:
                    yield float(np.abs(outline - before[0]).mean()) * (abrupt + before[1]) / 2
                before = outline, abrupt

    def follow(self, lengths: np.ndarray, pace: np.ndarray) -> None:
        """Let the image change at a `pace` [F − 1], where it changes by `lengths` [F − 1] at an even one."""
        self.moments = paced(lengths, pace, self.settings.fps) / self.settings.fps

    def plan(self) -> dict[str, np.ndarray]:
        """Return what `prepare` and `follow` have chosen, for `recall`."""
        shapes = np.zeros(0, np.int64) if self._shapes is None else self._shapes
        return {"moments": self.moments, "shapes": shapes, "kinds": np.array(self._kinds)}

    def recall(self, plan: Mapping[str, np.ndarray]) -> None:
        """Take what an earlier run of the same film has chosen.

        Raises:
            ValueError, KeyError: it is damaged.
        """
        moments, shapes, kinds = (plan[name] for name in ("moments", "shapes", "kinds"))
        if len(moments) != self.settings.frames:
            raise ValueError(f"{len(moments)} moments for {self.settings.frames} frames")
        self.moments, self._shapes, self._kinds = moments, shapes if len(shapes) else None, int(kinds)

    def x_T(self, frames: Sequence[int]) -> Tensor:
        """Return the start noise of frames, [B, C, h, w] float32."""
        return self._noise(self.moments[list(frames)])

    def _noise(self, moments: np.ndarray) -> Tensor:
        return torch.from_numpy(np.stack([self.path.x_T(moment) for moment in self.path.in_the_middle(moments)]))

    def transitions(self, frames: Sequence[int]) -> list[Transition]:
        """Return prompts and shapes of frames."""
        made, settings = [], self.settings
        circle = settings.frames / settings.fps if settings.loop else 0.0
        for frame in frames:
            weights = weights_at(settings.cues, frame / settings.fps, settings.smooth, circle)
            specs, shares = tuple(self._specs[cue] for cue, _ in weights), tuple(weight for _, weight in weights)
            made.append(Transition(specs, shares, self._shares(self.moments[frame]), settings.draft))
        return made

    def _shares(self, moment: float) -> np.ndarray | None:
        if self._shapes is None:
            return None
        first = -(len(self._shapes) // 3) if self.settings.loop else 0
        moments = np.arange(first, first + len(self._shapes)) / RATE
        return passing(self._shapes, moments, moment, PASSAGE * self.settings.smooth, self._kinds)

    def job(self, frames: Sequence[int]) -> PaintJob:
        """Describe frames that are painted together."""
        transitions, x_T = self.transitions(frames), self.x_T(frames)
        if isinstance(self.painter, TransitionPainter):
            return PaintJob(tuple(transitions), x_T)
        return PaintJob(tuple(main_spec(one) for one in transitions), x_T)

    def paint(self, frames: Sequence[int], on_step: OnStep | None = None) -> np.ndarray:
        """Paint frames, [B, H, W, 3] uint8."""
        return self.job(frames).done_by(self.painter, on_step)


def main_spec(transition: Transition) -> ImageSpec:
    """Return the spec of the prompt that has most of an image."""
    return transition.specs[int(np.argmax(transition.weights))]


def abruptness(transition: Transition) -> float:
    """Return how much faster an image changes than its outline, where two shapes pass into each other.

    A U-Net paints one shape or a mixture, and goes from one to the other where the larger share is about two thirds.
    """
    if transition.shares is None:
        return 1.0
    return 1 + ABRUPT * math.exp(-(((float(transition.shares.max()) - ABRUPT_AT) / ABRUPT_WIDTH) ** 2))
