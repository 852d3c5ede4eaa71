"""A Dask cluster that paints batches of images in place of this machine. Needs `requirements-dask.txt`.

Each worker loads the model once, from its own copy, after it has found that program, libraries and weights are those of
this machine. Each paints with one thread, so that its bits are those of one machine of that kind with one thread:
sums are rounded in another order if more threads share them. What a lost worker had is painted by another one.
"""

import contextlib
import functools
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import config
from audio.cluster import MOST_DEATHS, Call, ClusterPool, Unfit, client_of
from painting.model_files import ModelFiles, find_model_files, model_sha256
from painting.painter import OnStep, Painter, PaintJob, Step

if TYPE_CHECKING:
    from distributed import Client

LOADING_SECONDS = 600.0  # for the first worker to answer, which loads the model before
AHEAD = 256  # batches that are handed over together
PROGRAM = ("painting", "ldm")  # folders that decide what an image looks like
LIBRARIES = ("torch", "numpy", "diffusers", "transformers", "peft")
CRASHED = (
    f"{MOST_DEATHS} workers have ended while they painted the same batch of images: give them more memory, or make "
    "batches smaller"
)

Numbered = tuple[int, PaintJob]

_ONE_AT_A_TIME = threading.Lock()  # in a worker with several threads


@dataclass(frozen=True)
class WantedModel:
    """A model as this machine has it; paths within the program are relative to its folder."""

    weights: str
    yaml: str | None
    loras: tuple[tuple[str, float], ...]
    vae: str | None
    offload: str | None
    sha256: str
    precision: str
    device: str

    @classmethod
    def of(cls, files: ModelFiles, precision: str, device: str) -> "WantedModel":
        """Describe a model to workers."""
        return cls(
            weights=_told(files.weights),
            yaml=_told(files.yaml) if files.yaml else None,
            loras=tuple((_told(path), weight) for path, weight in files.loras),
            vae=_told(files.vae) if files.vae else None,
            offload=files.offload,
            sha256=model_sha256(files).result(),
            precision=precision,
            device=device,
        )

    def files(self) -> ModelFiles:
        """Return its files here.

        Raises:
            ValueError, OSError: there is no such model.
        """
        yaml = _found(self.yaml) if self.yaml else None
        loras = tuple((_found(path), weight) for path, weight in self.loras)
        vae = _found(self.vae) if self.vae else None
        return replace(find_model_files(_found(self.weights), yaml), loras=loras, vae=vae, offload=self.offload)


def _told(path: Path) -> str:
    """Return a path as another machine finds it, whose copy of the program may lie elsewhere."""
    absolute = path.absolute()
    inside = absolute.is_relative_to(config.REPO_DIR)
    return absolute.relative_to(config.REPO_DIR).as_posix() if inside else str(absolute)


def _found(path: str) -> Path:
    return config.REPO_DIR / path  # an absolute one stays as it is


# --- in a worker -----------------------------------------------------------------------------------------------------
def work(model: WantedModel, jobs: list[Numbered], wanted: dict[str, str]) -> list[tuple[int, np.ndarray]] | Unfit:
    """Paint some batches, after this worker has found itself fit for it; without any, only answer whether it is."""
    with _ONE_AT_A_TIME:
        own = versions()
        for name, version in wanted.items():
            if own.get(name) != version:
                return Unfit(f"has {name} {own.get(name)}, this machine {version}: make them equal, and start it again")
        try:
            painter = _painter(model)
            return [(number, job.done_by(painter)) for number, job in jobs]
        except (ValueError, OSError, RuntimeError, MemoryError, ImportError) as error:
            why = " ".join(str(error).split()) or type(error).__name__
            return Unfit(f"cannot {'paint' if jobs else 'load the model'} ({why})")


@functools.lru_cache(1)
def _painter(model: WantedModel) -> Painter:
    """Load the model, and keep it for the next tasks."""
    import torch

    from ldm.devices import choose_device

    files, device = model.files(), choose_device(model.device)
    if model_sha256(files).result() != model.sha256:
        raise ValueError(f"{files.weights} is not the model of this name that the other machine has")
    torch.set_num_threads(1)
    return files.load(model.precision, device)


@functools.cache
def versions() -> dict[str, str]:
    """Return what the bits of an image depend on beside the model: the versions of libraries, and of this program."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    digest = hashlib.sha256()
    for folder in PROGRAM:
        for source in sorted((config.REPO_DIR / folder).rglob("*.py")):
            name = source.relative_to(config.REPO_DIR).as_posix()
            digest.update(name.encode() + source.read_bytes().replace(b"\r\n", b"\n"))
    return found | {"the program": digest.hexdigest()[:12]}


# --- here ------------------------------------------------------------------------------------------------------------
class PaintingPool(ClusterPool):
    """Paints batches of images on the workers of a cluster."""

    what = "images"

    def __init__(self, client: "Client", address: str, model: WantedModel, say: Callable[[str], None]) -> None:
        """Ask all workers, which load the model.

        Raises:
            RuntimeError: there are none, or none that can be used.
        """
        self._model = model
        super().__init__(client, address, config.REPO_DIR, 1, say)

    @property
    def patience(self) -> float:
        """Seconds for the first worker to answer."""
        return LOADING_SECONDS

    @property
    def at_once(self) -> int:
        """Number of workers that paint."""
        return max(1, sum(worker.fit for worker in self._workers.values()))

    def __call__(
        self, jobs: Iterable[PaintJob], on_step: OnStep | None = None, batches: int = 0
    ) -> Iterator[np.ndarray]:
        """Yield the images [B, H, W, 3] uint8 of each job, in order; see `painting.generate.PaintAll`.

        Args:
            jobs: batches of images; some are asked for ahead.
            on_step: called for each batch that is done, with the steps of all batches.
            batches: how many jobs there are, for `on_step`.

        Raises:
            RuntimeError: the scheduler has gone, or no worker can be used any more, or a batch ends its workers.
        """
        done = 0
        for chunk in _chunks(jobs, AHEAD):
            held: dict[int, np.ndarray] = {}
            following = 0
            for number, images in self.do(list(enumerate(chunk))):
                held[number] = images
                done += 1
                if on_step:
                    steps = chunk[number].steps
                    on_step(Step(done * steps, max(done, batches) * steps, functools.partial(np.asarray, images)))
                while following in held:
                    yield held.pop(following)
                    following += 1

    def _call(self, paths: list[Numbered]) -> Call:
        return Call(work, (self._model, paths, versions()))

    def _result_of_crash(self, path: Any) -> Any:
        raise RuntimeError(CRASHED)


def _chunks(jobs: Iterable[PaintJob], size: int) -> Iterator[list[PaintJob]]:
    chunk: list[PaintJob] = []
    for job in jobs:
        chunk.append(job)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


@contextlib.contextmanager
def connect(address: str, model: WantedModel, say: Callable[[str], None]) -> Iterator[PaintingPool]:
    """Connect to a scheduler at `address`, tcp://host:port, and let its workers load a model.

    Args:
        say: called with a message about a worker that cannot be used, or if all have gone.

    Raises:
        RuntimeError: Dask is not installed, no scheduler answers, or it has no workers that can be used.
    """
    with client_of(address) as client:
        yield PaintingPool(client, address, model, say)
