"""A Dask cluster in place of the cores of one machine. Needs `requirements-dask.txt`."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from .decoding import ffmpeg_version
from .features import LIBRARIES

CONNECT_SECONDS = 10.0


@contextlib.contextmanager
def connect(address: str, folder: Path) -> Iterator[tuple[type[Exception], ...]]:
    """Connect to a scheduler; yield the errors that say that a worker died.

    Raises:
        RuntimeError: no Dask here, no scheduler there, no workers, or workers that would give other bits: with other
            libraries, or without the recordings at the same path.
    """
    try:
        from distributed import Client, KilledWorker
    except ModuleNotFoundError as error:
        raise RuntimeError("Dask is not installed: pip install -r requirements-dask.txt") from error
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise RuntimeError(f"no Dask scheduler answers at {address} ({' '.join(str(error).split())})") from error
    with client:
        if not client.nthreads():
            raise RuntimeError(
                f"the Dask scheduler at {address} has no workers; start some with `dask worker {address}`"
            )
        check_workers(client.run(describe_worker, str(folder.absolute()), on_error="return"), folder)
        yield (KilledWorker,)


def describe_worker(folder: str) -> dict[str, str | bool]:
    """Runs in a worker: what decides its bits, and whether it sees the recordings."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=1)  # as long as the worker lives, so that its bits are those of one thread
    return LIBRARIES | {"ffmpeg": ffmpeg_version(), "folder": os.path.isdir(folder)}


def check_workers(said: dict[str, object], folder: Path) -> None:
    """Raises RuntimeError naming the first worker that is not fit, and why."""
    wanted = LIBRARIES | {"ffmpeg": ffmpeg_version()}
    for worker, answer in said.items():
        if not isinstance(answer, dict):
            raise RuntimeError(
                f"the worker {worker} cannot run this program ({answer}); start it in a copy of this "
                "folder with PYTHONPATH=. and the packages of requirements.txt and requirements-dask.txt"
            )
        if not answer["folder"]:
            raise RuntimeError(f"the worker {worker} does not see {folder.absolute()}; mount it there at the same path")
        for name, version in wanted.items():
            if answer[name] != version:
                raise RuntimeError(f"the worker {worker} has {name} {answer[name]}, here is {version}: make them equal")
