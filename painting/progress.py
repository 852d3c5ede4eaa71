"""Progress of sampling, shown where someone looks: a bar in a terminal, events in standby, a preview file in both."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from painting.painter import Step
from painting.preview import save_preview

# tqdm's own format, but always seconds a step, never steps a second
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_inv_fmt}]"


class Progress:
    """A callback for sampling steps, and a context that removes the bar at its end."""

    def __init__(
        self,
        steps: int,
        preview: Path | None = None,
        every: int = 0,
        emit: Callable[[dict[str, Any]], None] | None = None,
        pause: float = 0.0,
    ) -> None:
        """Show nothing yet.

        Args:
            steps: sampling steps of one batch.
            preview: file that is rewritten every `every` steps of a batch, and before its first step if the model has
                a prior.
            emit: takes events {"progress": [step, total]} and {"preview": path}; None: draw a bar on standard error,
                if that is a terminal.
            pause: seconds after a preview in which no other one is written.
        """
        self.steps, self.preview, self.every, self.emit = steps, preview, every, emit
        self._pause, self._written = pause, -math.inf  # time.monotonic() of the last preview
        self._bar: tqdm[Any] | None = None

    def __call__(self, step: Step) -> None:
        """Show that a step is done, or what an image begins with.

        Raises:
            OSError: the preview cannot be written.
        """
        if step.sampled:
            self._count(step)
        if self.preview and self._is_due(step):
            save_preview(step.preview(), self.preview)
            self._written = time.monotonic()
            if self.emit:
                self.emit({"preview": str(self.preview)})

    def _count(self, step: Step) -> None:
        if self.emit:
            self.emit({"progress": [step.number, step.total]})
            return
        # the bar appears with the first step, so that what is printed before stands above it
        self._bar = self._bar or tqdm(total=step.total, desc="sampling", unit="step", bar_format=BAR, disable=None)
        self._bar.update(step.number - self._bar.n)

    def _is_due(self, step: Step) -> bool:
        """Tell whether a preview is to be written of this step."""
        step_of_batch = (step.number - 1) % self.steps + 1
        chosen = not step.sampled or step_of_batch % self.every == 0
        return chosen and time.monotonic() - self._written >= self._pause

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
