"""Measure what grows with a film: latents along recordings of different lengths, and workers of a cluster that paint.

    python -m benchmarks.film_scale windows      seconds and peak memory for 1, 10 and 60 minutes of sound
    python -m benchmarks.film_scale cluster      images painted by 1 worker, by 2, and by 2 of which one is killed

`cluster` needs `requirements-dask.txt`. Its workers have one thread each and are on this machine. Times count from the
first image to the last one, because loading does not divide.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

import cli
import config
from benchmarks.memory import run_command

MINUTES = (1, 10, 60)
RATE = 44_100  # Hz, of two channels
BATCH = 4  # images


def main(argv: list[str] | None = None) -> int:
    """Run the measurements that are asked for."""
    parser = cli.CommandParser(__doc__)
    parser.add_argument("what", choices=("windows", "cluster"), help="what to measure")
    parser.add_argument("--images", type=cli.bounded(int, 16), default=96, help="that a cluster paints (default: 96)")
    parser.add_argument("--steps", type=cli.bounded(int, 1, 100), default=20, help="of each image (default: 20)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        measure_windows(Path(name)) if args.what == "windows" else measure_cluster(Path(name), args)
    return 0


def measure_windows(folder: Path) -> None:
    """Print what latents along recordings take."""
    script = config.REPO_DIR / "process_live_audio.py"
    for minutes in MINUTES:
        recording = folder / "a.wav"
        write_recording(recording, minutes)
        options = f"--input_file {recording} --windows 3.0 --hop 0.25 --output_file {folder / 'a.pt'}".split()
        seconds, peak = run_command([sys.executable, script, *options])
        print(f"{minutes} minutes of stereo: {seconds:.1f} s, peak memory {peak / 1e6:.0f} MB", flush=True)


def write_recording(path: Path, minutes: int) -> None:
    """Write the voices of examples/ one after the other, again and again, at RATE in two channels."""
    voices = []
    for voice in sorted(config.EXAMPLES_DIR.glob("*.wav")):
        samples, rate = soundfile.read(voice, dtype="float32")
        times = np.arange(round(len(samples) * RATE / rate)) / RATE
        voices.append(np.interp(times, np.arange(len(samples)) / rate, samples))
    round_of_all = np.concatenate(voices)
    stereo = np.stack([round_of_all, 0.7 * np.roll(round_of_all, 60)], axis=1)
    left = minutes * 60 * RATE
    with soundfile.SoundFile(path, "w", RATE, 2, "PCM_16") as file:
        while left > 0:
            file.write(stereo[:left])
            left -= len(stereo)


def measure_cluster(folder: Path, args: argparse.Namespace) -> None:
    """Print how long workers take, and whether the images are the same."""
    alone, images = paint(folder / "one", args.images, args.steps, workers=1)
    print(f"1 worker: {args.images / alone:.2f} images/s", flush=True)
    both, same = paint(folder / "two", args.images, args.steps, workers=2)
    print(
        f"2 workers: {args.images / both:.2f} images/s, {alone / both:.2f} x; same bytes: {same == images}", flush=True
    )
    killed, kept = paint(folder / "killed", args.images, args.steps, workers=2, kill=True)
    print(f"2 workers, one killed in the middle: {alone / killed:.2f} x as fast; same bytes: {kept == images}")


def paint(outdir: Path, count: int, steps: int, workers: int, kill: bool = False) -> tuple[float, list[bytes]]:
    """Paint images by so many workers; return seconds between the first and the last image, and all files."""
    with cluster(workers) as (address, processes):
        command = [sys.executable, "txt2img.py", "--prompt", "a golden spiral on purple", "--n_samples", str(count)]
        command += ["--steps", str(steps)]
        command += ["--batch_size", str(BATCH), "--skip_grid", "--outdir", str(outdir), "--dask_scheduler", address]
        painting = subprocess.Popen(command, cwd=config.REPO_DIR, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert painting.stdout
        moments = []
        for line in painting.stdout:
            if line.startswith(b"image: "):
                moments.append(time.perf_counter())
                if kill and len(moments) == count // 2:
                    os.killpg(processes[0].pid, signal.SIGKILL)
        if painting.wait():
            raise RuntimeError(f"painting by {workers} workers ended with status {painting.returncode}")
    begun = 2 * BATCH  # images, until each worker paints
    seconds = (moments[-1] - moments[begun - 1]) * count / (count - begun)
    return seconds, [path.read_bytes() for path in sorted((outdir / "samples").iterdir())]


@contextmanager
def cluster(workers: int) -> Iterator[tuple[str, list["subprocess.Popen[bytes]"]]]:
    """Start a scheduler and workers of one thread each; yield its address and the workers' processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    place = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    scheduler = started(["scheduler", *place])
    processes = []
    try:
        wait_for(port)
        processes = [started(["worker", address, "--nthreads", "1", "--no-dashboard"]) for _ in range(workers)]
        time.sleep(10)  # for them to join, which nothing in the measured time does
        yield address, processes
    finally:
        for process in [*processes, scheduler]:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def started(words: list[str]) -> "subprocess.Popen[bytes]":
    """Start a program of Dask in a group of its own, in the folder of this program."""
    environment = {name: value for name, value in os.environ.items() if not re.fullmatch(".*_NUM_THREADS", name)}
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *words], cwd=config.REPO_DIR, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def wait_for(port: int) -> None:
    """Wait until something listens at a port of this machine.

    Raises:
        RuntimeError: nothing does for a minute.
    """
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise RuntimeError("the Dask scheduler does not start: pip install -r requirements-dask.txt")


if __name__ == "__main__":
    cli.run(main)
