"""Many images in one go: in batches, numbered, and resumable after an interruption."""

import dataclasses
import hashlib
import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from painting.image_spec import ImageSpec
from painting.images import save_numbered
from painting.painter import OnStep, Painter, PaintJob, counted


class PaintAll(Protocol):
    """A way to paint many batches of images: here, one after the other, or on a cluster."""

    @property
    def at_once(self) -> int:
        """Number of batches that are painted at the same time."""
        ...

    def __call__(self, jobs: Iterable[PaintJob], on_step: OnStep | None, batches: int) -> Iterator[np.ndarray]:
        """Yield the images [B, H, W, 3] uint8 of each job, in order.

        Args:
            on_step: called after each sampling step; it counts the steps of all batches.
            batches: how many jobs there are, for `on_step`.
        """
        ...


LONGEST_WORDS = 60  # bytes of a prompt in the name of a file, of which most file systems allow 255


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


def stem(spec: ImageSpec, walk: bool = False, words: bool = True) -> str:
    """Return the start of the file name of an image, such as "subject_003_raw_sample_a-blue-butterfly".

    Args:
        walk: several voices are a frame of a walk; otherwise a mix.
        words: the first words of the prompt belong to the name.
    """
    start = "walk" if walk else "mix"
    if not spec.blend:
        start = "" if spec.subject is None else f"subject_{spec.subject:03d}"
    raw = "raw" if spec.parts and spec.x_T == "raw" else ""
    return "_".join(filter(None, (start, raw, "sample", words_of(spec.prompt) if words else "")))


def words_of(prompt: str) -> str:
    """Return the first words of a prompt as a part of a file name, "" if it has none."""
    kept, text = "", unicodedata.normalize("NFC", prompt).lower()
    # letters, marks and numbers of all scripts
    for word in "".join(sign if unicodedata.category(sign)[0] in "LMN" else " " for sign in text).split():
        longer = f"{kept}-{word}" if kept else word
        if len(longer.encode()) > LONGEST_WORDS:
            return kept or longer.encode()[:LONGEST_WORDS].decode(errors="ignore")
        kept = longer
    return kept


def generate_images(
    specs: Sequence[ImageSpec],
    painter: Painter,
    start_noise: Callable[[Sequence[ImageSpec]], Tensor],
    text_of: Callable[[ImageSpec], PngInfo] | None,
    journal: Journal,
    folder: Path,
    batch_size: int,
    on_step: OnStep | None = None,
    name: Callable[[ImageSpec], str] = stem,
    paint_all: PaintAll | None = None,
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
        name: gives the file name of an image up to its number.
        paint_all: paints in place of `painter`, as a cluster does (`painting.cluster`).
    """
    left = [index for index in range(len(specs)) if index not in journal.finished]
    batches = [left[start : start + batch_size] for start in range(0, len(left), batch_size)]
    groups = [tuple(specs[index] for index in batch) for batch in batches]
    jobs = (PaintJob(chosen, start_noise(chosen)) for chosen in groups)
    painted = (paint_all or OneByOne(painter))(jobs, on_step, len(batches))
    for batch, chosen, images in zip(batches, groups, painted, strict=True):
        for number, (index, spec, image) in enumerate(zip(batch, chosen, images, strict=True)):
            spec = dataclasses.replace(spec, precision=painter.precision)  # the painter may have changed it
            if len(batch) > 1:
                spec = dataclasses.replace(spec, batch_size=len(batch), batch_index=number)
            path = save_numbered(image, folder, name(spec), text_of(spec) if text_of else None)
            if len(specs) > 1:
                journal.add(index, path)
            yield path
    journal.close()


class OneByOne:
    """Paints batches here, one after the other (`PaintAll`)."""

    at_once = 1

    def __init__(self, painter: Painter) -> None:
        self._painter = painter

    def __call__(self, jobs: Iterable[PaintJob], on_step: OnStep | None, batches: int) -> Iterator[np.ndarray]:
        """Yield the images of each job; see `PaintAll`."""
        for place, job in enumerate(jobs):
            yield job.done_by(self._painter, counted(on_step, place, batches) if on_step else None)
