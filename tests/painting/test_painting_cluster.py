"""Images painted by a cluster: in order, each once, the same bytes, whatever happens to workers."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import config
import txt2img
from audio import cluster as pools
from painting import cluster
from painting.cluster import WantedModel, connect
from painting.image_spec import ImageSpec
from painting.model_files import ModelFiles
from painting.painter import OnStep, PaintJob, Step
from tests import forked
from tests.audio.test_cluster import Processes, quiet, scale
from tests.programs import PATIENCE, TINY, wait_until

if TYPE_CHECKING:
    import distributed
else:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed: requirements-dask.txt")

MODEL = WantedModel(str(config.BUILTIN_MODEL_WEIGHTS), None, (), None, None, "0" * 64, "fp32", "cpu")


class Counting:
    """A painter whose images are the numbers of their x_T."""

    def __init__(self) -> None:
        self.painted: list[float] = []

    def paint(self, specs: list[ImageSpec], x_T: torch.Tensor, on_step: OnStep | None = None) -> np.ndarray:
        self.painted.append(float(x_T[0, 0, 0, 0]))
        return (x_T[:, 0, :1, :1, None].numpy() * np.ones(3)).astype(np.uint8)


@pytest.fixture
def painter(monkeypatch) -> Counting:
    counting = Counting()
    monkeypatch.setattr(cluster, "_painter", lambda model: counting)
    return counting


@pytest.fixture(scope="module")
def threads() -> Iterator["distributed.LocalCluster"]:
    """A scheduler in a thread of this process."""
    settings = {"n_workers": 0, "processes": False, "protocol": "tcp://", "threads_per_worker": 1}
    with quiet(), distributed.LocalCluster(**settings, dashboard_address=None) as local:
        yield local


@pytest.fixture
def address(threads, monkeypatch) -> Iterator[str]:
    """A scheduler with two workers."""
    monkeypatch.setattr(pools, "LOOK_EVERY", 0.05)
    scale(threads, 2)
    yield threads.scheduler_address
    scale(threads, 0)


def jobs(count: int) -> list[PaintJob]:
    return [PaintJob((ImageSpec("a", steps=4),), torch.full((1, 4, 8, 8), float(number))) for number in range(count)]


def painted(address: str, count: int, on_step: OnStep | None = None) -> tuple[list[int], list[str]]:
    said: list[str] = []
    with connect(address, MODEL, said.append) as pool:
        return [int(images[0, 0, 0, 0]) for images in pool(jobs(count), on_step, count)], said


def test_images_come_in_order_and_each_is_painted_once(address, painter, monkeypatch):
    monkeypatch.setattr(cluster, "AHEAD", 7)
    steps: list[Step] = []
    found, said = painted(address, 20, steps.append)
    assert found == list(range(20)) == sorted(map(int, painter.painted)) and not said
    assert [(step.number, step.total) for step in steps] == [(4 * (i + 1), 80) for i in range(20)]


def test_a_worker_that_cannot_paint_gets_no_more_and_the_other_one_paints(address, painter, threads, monkeypatch):
    first = sorted(worker.address for worker in threads.workers.values())[0]
    paint = painter.paint

    def fails(specs: list[ImageSpec], x_T: torch.Tensor, on_step: OnStep | None = None) -> np.ndarray:
        if distributed.get_worker().address == first:
            raise RuntimeError("CUDA out of memory")
        return paint(specs, x_T, on_step)

    monkeypatch.setattr(painter, "paint", fails)
    found, said = painted(address, 10)
    assert found == list(range(10))
    assert said == [f"the worker {first} cannot paint (CUDA out of memory); it gets no images"]


def test_if_no_worker_can_paint_the_reason_is_an_error(address, painter, monkeypatch):
    monkeypatch.setattr(pools, "LONELY_SECONDS", 0.1)
    monkeypatch.setattr(painter, "paint", lambda *_: (_ for _ in ()).throw(ValueError("no such size")))
    with pytest.raises(RuntimeError, match=r"no worker can be used any more: the worker \S+ cannot paint \(no such si"):
        painted(address, 3)


@pytest.mark.parametrize("wrong", [{"torch": "1.0"}, {"the program": "abc"}])
def test_workers_of_other_versions_are_named(address, painter, monkeypatch, wrong):
    asked = cluster.versions() | wrong
    monkeypatch.setattr(
        cluster.PaintingPool, "_call", lambda pool, jobs: pools.Call(cluster.work, (MODEL, jobs, asked))
    )
    ((name, version),) = wrong.items()
    with pytest.raises(RuntimeError, match=rf"the worker \S+ has {name} \S+, this machine {version}: make them equal"):
        painted(address, 1)


def test_workers_with_another_model_of_the_same_name_are_named(address):
    with pytest.raises(
        RuntimeError, match="cannot load the model .* is not the model of this name that the other mach"
    ):
        painted(address, 1)


def test_workers_without_the_model_are_named(address, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "MODEL", WantedModel("gone", None, (), None, None, "", "fp32", "cpu"))
    with pytest.raises(RuntimeError, match="cannot load the model .*gone"):
        painted(address, 1)


def test_a_batch_that_ends_its_workers_is_an_error(address, painter, monkeypatch):
    outcome = pools.ClusterPool._outcome

    def ends(pool: pools.ClusterPool, future: "distributed.Future", worker: str) -> object:
        answer = outcome(pool, future, worker)
        return None if isinstance(answer, list) and answer and answer[0][0] == 2 else answer

    monkeypatch.setattr(pools.ClusterPool, "_outcome", ends)
    with pytest.raises(RuntimeError, match="3 workers have ended while they painted the same batch"):
        painted(address, 5)


def test_a_model_is_described_so_that_another_copy_of_the_program_finds_it(tmp_path, monkeypatch):
    (tmp_path / "own.safetensors").write_bytes(b"x")
    lora = tmp_path / "lora.safetensors"
    lora.write_bytes(b"y")
    told = WantedModel.of(ModelFiles(config.BUILTIN_MODEL_WEIGHTS, loras=((lora, 0.5),)), "fp32", "cpu")
    assert told.weights == "models/chladni/model.safetensors" and told.loras == ((str(lora), 0.5),)
    assert told.files().weights == config.BUILTIN_MODEL_WEIGHTS and told.files().loras == ((lora, 0.5),)


# --- processes -------------------------------------------------------------------------------------------------------
def words(outdir: Path, *arguments: object) -> list[str]:
    return list(map(str, ["--prompt", "a red flower", *TINY, "--outdir", outdir, *arguments]))


def start(log: Path, outdir: Path, *arguments: object) -> "forked.Forked | subprocess.Popen[bytes]":
    """Start `txt2img.py`, which says into `log` what it says."""
    command = [str(config.REPO_DIR / "txt2img.py"), *words(outdir, *arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("wb") as said, open(os.devnull, "rb") as nothing:
        return forked.start(command, environment, config.REPO_DIR, (nothing.fileno(), said.fileno(), said.fileno()))


@pytest.mark.slow
def test_the_bytes_are_those_of_one_machine_although_a_worker_is_killed(tmp_path):
    many = ("--n_samples", 12, "--batch_size", 1, "--steps", 4)
    processes = Processes(tmp_path)
    try:
        processes.worker()
        processes.worker()
        there = start(tmp_path / "log", tmp_path / "there", *many, "--dask_scheduler", processes.address)
        wait_until(lambda: len(list((tmp_path / "there").glob("samples/*.png"))) >= 2)
        processes.running[0].kill()
        assert there.wait(PATIENCE) == 0, (tmp_path / "log").read_text()
    finally:
        for process in [*processes.running, processes.scheduler]:
            process.kill()
            process.wait()
    txt2img.main(words(tmp_path / "here", *many))
    made = sorted(path.name for path in (tmp_path / "here" / "samples").iterdir())
    assert len(made) == 12 and made == sorted(path.name for path in (tmp_path / "there" / "samples").iterdir())
    for name in made:
        contents = [(tmp_path / place / "samples" / name).read_bytes() for place in ("here", "there")]
        assert contents[0] == contents[1]


def test_options_that_do_not_go_with_a_cluster_are_refused(capsys):
    for options in (["--preview_every=1"], ["--standby"]):
        with pytest.raises(SystemExit) as exit:
            txt2img.parse(["--prompt=a", "--dask_scheduler=tcp://x:1", *options])
        assert exit.value.code == 2 and "--dask_scheduler" in capsys.readouterr().err
