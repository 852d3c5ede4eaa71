"""The protocol that every model family follows, so that the rest of the program need not know which one paints."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from cli import Note
from painting.image_spec import ImageSpec, defaults_beside


class PaintingNote(Note):
    """Something that a user may want to know about an image, and that is no fault."""


@dataclass(frozen=True)
class Step:
    """One finished sampling step, or the state before the first one of a batch."""

    number: int  # 1 to total; before the first step of a batch, that of the last step before it, or 0
    total: int
    preview: Callable[[], np.ndarray]  # rough images [B, h, w, 3] uint8 of the result so far; costs time only if called
    sampled: bool = True  # False: no step of this batch is done, and the preview shows the model's prior


OnStep = Callable[[Step], None]


def counted(on_step: OnStep, batch: int, batches: int) -> OnStep:
    """Wrap `on_step` so that the steps of one of several batches are counted over all of them."""

    def over_all(step: Step) -> None:
        number, total = batch * step.total + step.number, batches * step.total
        on_step(replace(step, number=number, total=total))

    return over_all


def spec_for(painter: "Painter", prompt: str, **settings: Any) -> ImageSpec:
    """Return the spec of an image: the settings that are given, and for the others the model's own defaults.

    Raises:
        TypeError: an unknown setting.
        ValueError: a value out of its range.
    """
    own = defaults_beside(settings, painter.defaults)
    return ImageSpec(prompt, **{**own, "precision": painter.precision, **settings})


class Painter(Protocol):
    """A loaded text-to-image model."""

    @property
    def precision(self) -> str:
        """Name the number format of the weights, one of `PRECISIONS`."""
        ...

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Give the fields of `ImageSpec` for which this model has defaults of its own."""
        ...

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape [C, h, w] of x_T for images of `height` × `width` pixels.

        Raises:
            ValueError: the model has no images of this size.
        """
        ...

    def describe(self, spec: ImageSpec) -> list[str]:
        """Say in lines what is drawn for the prompts of `spec`, if the model can tell."""
        ...

    def paint(self, specs: Sequence[ImageSpec], x_T: Tensor, on_step: OnStep | None = None) -> np.ndarray:
        """Sample images [B, H, W, 3] uint8 from start noise `x_T` [B, C, h, w].

        The specs may differ in prompt, negative prompt, seed and voices, and must agree in everything else.

        Args:
            on_step: called after each sampling step, and by a model with a prior also before the first.
        """
        ...


@dataclass(frozen=True, eq=False)
class Transition:
    """An image of a film, on the way from one prompt or shape to the next."""

    specs: tuple[ImageSpec, ...]  # they differ only in their prompts
    weights: tuple[float, ...]  # of the specs; they sum to 1
    shares: np.ndarray | None = None  # [K] float32, of the shapes; they sum to 1; None: the start noise chooses
    rough: bool = False  # without fine detail, as in a preview, because that is quicker


@runtime_checkable
class TransitionPainter(Protocol):
    """A painter that can also paint what lies between two prompts, and between two shapes."""

    def shape_scores(self, x_T: Tensor) -> np.ndarray:
        """Score the shapes among which start noise [B, C, h, w] chooses: [B, K] float32, about N(0, 1).

        An image has the shape of the highest score. K is 0 if the model knows no shapes.
        """
        ...

    def outlines(self, transitions: Sequence[Transition], x_T: Tensor) -> np.ndarray:
        """Estimate without sampling what images show, as coarse latents [B, C, h, w] float32.

        It is for how much one image differs from another. A model without such an estimate returns the start noise.
        """
        ...

    def paint_transitions(
        self, transitions: Sequence[Transition], x_T: Tensor, on_step: OnStep | None = None
    ) -> np.ndarray:
        """Sample images [B, H, W, 3] uint8 as `Painter.paint` does, each between prompts and between shapes."""
        ...


@dataclass(frozen=True, eq=False)
class PaintJob:
    """Images that are painted together, by whichever painter."""

    described: tuple[ImageSpec, ...] | tuple[Transition, ...]
    x_T: Tensor  # [B, C, h, w] float32

    def done_by(self, painter: Painter, on_step: OnStep | None = None) -> np.ndarray:
        """Paint them, [B, H, W, 3] uint8.

        Raises:
            TypeError: they lie between prompts or shapes, and the painter is no `TransitionPainter`.
        """
        transitions = [one for one in self.described if isinstance(one, Transition)]
        if not transitions:
            return painter.paint([one for one in self.described if isinstance(one, ImageSpec)], self.x_T, on_step)
        if not isinstance(painter, TransitionPainter):
            raise TypeError(f"{type(painter).__name__} paints nothing between two prompts")
        return painter.paint_transitions(transitions, self.x_T, on_step)

    @property
    def steps(self) -> int:
        """Sampling steps of each image."""
        first = self.described[0]
        return (first.specs[0] if isinstance(first, Transition) else first).steps
