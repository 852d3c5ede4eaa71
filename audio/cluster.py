"""A Dask cluster that measures recordings in place of this machine's cores. Needs `requirements-dask.txt`."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from .av_decoder import decoder_name
from .features import LIBRARIES

CONNECT_SECONDS = 10.0


@contextlib.contextmanager
def connect(address: str, folder: Path) -> Iterator[tuple[type[Exception], ...]]:
    """Connect to a scheduler; yield the types of error that a worker's death raises.

    Raises:
        RuntimeError: Dask is not installed, no scheduler answers, it has no workers, or a worker has other versions of
            the libraries (its bits would differ) or does not see the recordings at the same path.
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
    """Return, in a worker, the versions that its bits depend on, and whether it sees the recordings."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=1)  # as long as the worker lives, so that its bits are those of one thread
    return LIBRARIES | {"decoder": decoder_name() or "none", "folder": os.path.isdir(folder)}


def check_workers(answers: dict[str, object], folder: Path) -> None:
    """Raise RuntimeError naming the first worker that cannot be used, and why."""
    wanted = LIBRARIES | {"decoder": decoder_name() or "none"}
    for worker, answer in answers.items():
        if not isinstance(answer, dict):
            raise RuntimeError(
                f"the worker {worker} cannot run this program ({answer}); start it in a copy of this "
                "folder with PYTHONPATH=. and the packages of requirements.txt and requirements-dask.txt"
            )
        if not answer["folder"]:
            raise RuntimeError(f"the worker {worker} does not see {folder.absolute()}; mount it there at the same path")
        for name, version in wanted.items():
            if answer[name] != version:
                raise RuntimeError(
                    f"the worker {worker} has {name} {answer[name]}, this machine {version}: make them equal"
                )
