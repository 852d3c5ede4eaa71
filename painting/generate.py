"""Many pictures in one go: in batches, numbered, and going on where an interrupted run of the same job stopped."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from tqdm import tqdm

from painting.image_spec import ImageSpec
from painting.images import save_numbered
from painting.painter import Painter
from painting.preview import Preview

# tqdm's own, but always seconds a step, never steps a second
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_inv_fmt}]"


class Journal:
    """Which pictures of a job are finished, in a file that exists only while the job is unfinished.

    A line is written after each picture, so that whatever ends the program loses at most the batch in progress.
    """

    def __init__(self, folder: Path, specs: Sequence[ImageSpec], inputs: str) -> None:
        """`inputs` names what the specs do not: model and latents. Another job in the folder has another file."""
        identity = hashlib.sha256(repr((inputs, specs)).encode()).hexdigest()[:16]
        self.path = folder / f".unfinished-{identity}.jsonl"
        self.finished = self._read()

    def _read(self) -> dict[int, Path]:
        """Finished pictures by their place in the job. A line that was cut short, or whose picture is gone, is none."""
        finished = {}
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    index, name = json.loads(line)
                    picture = Path(name)
                except (ValueError, TypeError):
                    continue
                if picture.is_file():
                    finished[int(index)] = picture
        return finished

    def add(self, index: int, picture: Path) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([index, str(picture)]) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """The job is done: the next run of the same command makes all pictures anew."""
        self.path.unlink(missing_ok=True)


def stem(spec: ImageSpec) -> str:
    if spec.blend:
        return "mix_sample"
    return "sample" if spec.subject is None else f"subject_{spec.subject:03d}_sample"


def generate_images(
    specs: Sequence[ImageSpec],
    painter: Painter,
    start_noise: Callable[[Sequence[ImageSpec]], Tensor],
    text_of: Callable[[ImageSpec], PngInfo] | None,
    journal: Journal,
    folder: Path,
    batch_size: int,
    preview: Preview | None = None,
    always_bar: bool = False,
) -> Iterator[Path]:
    """Make the pictures of `specs` and yield the path of each once it is written, in order, with one progress bar.

    Args:
        specs: what to make; all of one size, sampler and number of steps.
        start_noise: x_T [B, C, h, w] for some of them.
        text_of: what is written into a picture's file about it; None: nothing.
        journal: what is finished already; emptied at the end.
        folder: where pictures go.
        batch_size: pictures sampled together.
        preview: what to show of each batch while it is sampled.
        always_bar: draw the bar also where standard error is no terminal.
    """
    left = [index for index in range(len(specs)) if index not in journal.finished]
    batches = [left[start : start + batch_size] for start in range(0, len(left), batch_size)]
    total = len(batches) * specs[0].steps
    hidden = not left or (False if always_bar else None)  # None: where standard error is no terminal
    with tqdm(total=total, desc="sampling", unit="step", bar_format=BAR, disable=hidden) as bar:

        def after_step(i: int, x: Tensor, pred_x0: Tensor) -> None:
            bar.update()
            if preview is not None:
                preview.show(painter.model, i, pred_x0)

        for batch in batches:
            chosen = [specs[index] for index in batch]
            pictures = painter.paint(chosen, start_noise(chosen), after_step)
            for place, (index, spec, picture) in enumerate(zip(batch, chosen, pictures, strict=True)):
                spec = dataclasses.replace(spec, precision=painter.precision)  # what it came to
                if len(batch) > 1:
                    spec = dataclasses.replace(spec, batch_size=len(batch), batch_index=place)
                path = save_numbered(picture, folder, stem(spec), text_of(spec) if text_of else None)
                if len(specs) > 1:
                    journal.add(index, path)
                yield path
    journal.close()
