"""Many images in one go: in batches, numbered, and resumable after an interruption."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from painting.image_spec import ImageSpec
from painting.images import save_numbered
from painting.painter import OnStep, Painter, Step


class Journal:
    """The list of finished images of a job, in a file that exists only while the job is unfinished.

    A line is written after each image, so a program that is killed loses at most the batch in progress.
    """

    def __init__(self, folder: Path, specs: Sequence[ImageSpec], inputs: str) -> None:
        """Find out what is finished already.

        Args:
            inputs: names the model and the latents, which the specs do not. Each job in a folder has its own file.
        """
        identity = hashlib.sha256(repr((inputs, specs)).encode()).hexdigest()[:16]
        self.path = folder / f".unfinished-{identity}.jsonl"
        self.finished = self._read()

    def _read(self) -> dict[int, Path]:
        """Read finished images by their place in the job.

        Truncated lines, and lines whose image no longer exists, are ignored.
        """
        finished = {}
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    index, name = json.loads(line)
                    path = Path(name)
                except (ValueError, TypeError):
                    continue
                if path.is_file():
                    finished[int(index)] = path
        return finished

    def add(self, index: int, path: Path) -> None:
        """Note that image `index` of the job is finished, and wait until that is on disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([index, str(path)]) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Remove the file: the job is done, and the next run of the same command makes all images anew."""
        self.path.unlink(missing_ok=True)


def stem(spec: ImageSpec) -> str:
    """Return the start of the file name of an image."""
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
    on_step: OnStep | None = None,
) -> Iterator[Path]:
    """Make the images of `specs`, and yield the path of each in order as soon as it is written.

    Args:
        specs: all of one size, sampler and number of steps.
        start_noise: gives x_T [B, C, h, w] for some of the specs.
        text_of: gives the text that goes into the file of an image; None: no text.
        journal: what is finished already; closed at the end.
        folder: where the images go.
        batch_size: images sampled together.
        on_step: called after each sampling step; it counts the steps of all batches.
    """
    left = [index for index in range(len(specs)) if index not in journal.finished]
    batches = [left[start : start + batch_size] for start in range(0, len(left), batch_size)]
    for place, batch in enumerate(batches):
        chosen = [specs[index] for index in batch]
        step = _counted(on_step, place, len(batches)) if on_step else None
        images = painter.paint(chosen, start_noise(chosen), step)
        for number, (index, spec, image) in enumerate(zip(batch, chosen, images, strict=True)):
            spec = dataclasses.replace(spec, precision=painter.precision)  # the painter may have changed it
            if len(batch) > 1:
                spec = dataclasses.replace(spec, batch_size=len(batch), batch_index=number)
            path = save_numbered(image, folder, stem(spec), text_of(spec) if text_of else None)
            if len(specs) > 1:
                journal.add(index, path)
            yield path
    journal.close()


def _counted(on_step: OnStep, batch: int, batches: int) -> OnStep:
    """Wrap `on_step` so that steps are counted over all batches."""

    def counted(step: Step) -> None:
        on_step(Step(batch * step.total + step.number, batches * step.total, step.preview))

    return counted
