"""Measure speed and memory of phase 1 beside the plain recipe.

    python -m benchmarks.phase1 SOURCE                    # all parts
    python -m benchmarks.phase1 SOURCE --only batch       # or scripts, memory, live
    python -m benchmarks.phase1 SOURCE --only batch --recordings 100 --runs 1    # a quick look
    python -m benchmarks.phase1 SOURCE --only scripts --recordings 250 --beside ../older   # another checkout by turns

batch    1,000 real recordings: a serial librosa loop, which is the recipe, beside the function of
         prep_audio_spectrograms.py with one and with two workers. Prints files/s, ratios, whether all bits are the same
         for any number of workers, and the largest difference from librosa.
scripts  the three scripts as whole processes, each after the other, one worker: seconds, and those of the processor;
         with --beside by turns with the scripts of another checkout, and whether all arrays have the same bytes.
memory   peak memory of the parent process that turns 100,000 files into a matrix (their vectors are random), and of
         z_transformation_with_stats.py and prep_ldm.py on this matrix.
live     process_live_audio.py as a whole process, beside a script that is the plain recipe.

SOURCE holds the unpacked Debian packages that models/calibration/README.md names. Each figure is a median of --runs.
"""

import hashlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

import cli
import config
from audio import batch, features
from audio.batch_state import FileResult
from audio.provenance import read_latents
from benchmarks.memory import run_command
from models.calibration import select_recordings as calibration_set

SCRIPTS = {  # in their order, with arguments
    "prep_audio_spectrograms.py": "--input_dir {} --workers 1",
    "z_transformation_with_stats.py": "",
    "prep_ldm.py": "",
}
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PLAIN = """
import sys, cv2, librosa, numpy as np
def vector(path):
    samples, rate = librosa.load(path)
    power = librosa.feature.melspectrogram(y=samples, sr=rate, n_mels=64)
    return cv2.resize(librosa.power_to_db(power, ref=np.max), (64, 64), interpolation=cv2.INTER_AREA).reshape(-1)
"""
PLAIN_LIVE = (
    PLAIN
    + """
import torch
mean, std = (np.load(f"{sys.argv[2]}/{name}.npy") for name in ("mean", "std"))
z_score = (vector(sys.argv[1]) - mean) / np.where(std > 0, std, 1)
torch.save(torch.from_numpy(z_score.astype(np.float32).reshape(1, 4, 32, 32)), sys.argv[3])
"""
)


# --- batch -----------------------------------------------------------------------------------------------------------
def batch_figures(source: Path, count: int, runs: int) -> None:
    """Print the part `batch`."""
    plain: dict = {}
    exec(PLAIN, plain)  # the code of the plain script
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "in")
        folder.mkdir()
        paths = calibration_set.spaced(calibration_set.select(source), count)
        for index, path in enumerate(paths):
            (folder / f"{index:05}{path.suffix}").symlink_to(path)
        links = sorted(folder.iterdir())
        plain["vector"](links[0])  # librosa imports much of itself at first use
        figures: dict[str, list[float]] = {"plain librosa loop": [], "1 worker": [], "2 workers": []}
        digests = set()
        for run in range(runs):  # by turns, so that a change of the machine's speed affects all alike
            started = time.perf_counter()
            wanted = _plain_loop(plain["vector"], links)
            figures["plain librosa loop"].append(time.perf_counter() - started)
            for workers in (1, 2):
                output = Path(temporary, f"{run}-{workers}", "v.npy")
                if workers > 1 and run == 0:
                    batch.prepare_batch(folder, Path(temporary, "warm", "v.npy"), workers=workers)  # start the workers
                report = batch.prepare_batch(folder, output, workers=workers)
                figures[f"{workers} worker{'s' * (workers > 1)}"].append(report.wall)
                digests.add(hashlib.sha256(output.read_bytes()).hexdigest())
        vectors = np.load(output)
        usable = [vector for vector in wanted if vector is not None]
        worst = np.abs(vectors - np.stack(usable)).max() if len(usable) == len(vectors) else float("nan")
    base = statistics.median(figures["plain librosa loop"])
    print(f"\n| {len(paths)} recordings, {report.seconds / 60:.0f} minutes | s | files/s | ratio |")
    print("| --- | --- | --- | --- |")
    for name, walls in figures.items():
        wall = statistics.median(walls)
        print(f"| {name} | {wall:.2f} | {len(paths) / wall:.0f} | {base / wall:.2f} |")
    print(f"\nthe same bits for any number of workers: {len(digests) == 1}; at most {worst:.1e} dB from librosa")


def _plain_loop(vector, paths: list[Path]) -> list:
    """Run the plain script's loop, and leave out files that cannot be read, which a plain script would stop at."""
    vectors = []
    for path in paths:
        try:
            made = vector(path)
            vectors.append(made if made.max() > made.min() else None)
        except Exception:
            vectors.append(None)
    return vectors


# --- scripts ---------------------------------------------------------------------------------------------------------
def scripts_figures(source: Path, count: int, runs: int, beside: Path | None) -> None:
    """Print the part `scripts`."""
    checkouts = {"here": config.REPO_DIR} | ({str(beside): beside} if beside else {})
    taken: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "in")
        folder.mkdir()
        paths = calibration_set.spaced(calibration_set.select(source), count)
        for index, path in enumerate(paths):
            (folder / f"{index:05}{path.suffix}").symlink_to(path)
        for run in range(runs + 1):
            for number, (name, checkout) in enumerate(checkouts.items()):
                data = Path(temporary, str(number))
                shutil.rmtree(data, ignore_errors=True)  # by turns, each time from nothing
                for script, arguments in SCRIPTS.items():
                    command = [sys.executable, str(checkout / script), *arguments.format(folder).split()]
                    seconds = _seconds_of(command, data)
                    if run:  # the first one fills the page cache
                        taken.setdefault((script, name), []).append(seconds)
        same = len({_arrays_sha256(Path(temporary, str(number))) for number in range(len(checkouts))}) == 1
    print(f"\n| {len(paths)} recordings | checkout | s | of the processor |\n| --- | --- | --- | --- |")
    for (script, name), all_runs in taken.items():
        wall, processor = (statistics.median(column) for column in zip(*all_runs, strict=True))
        print(f"| {script} | {name} | {wall:.2f} | {processor:.2f} |")
    if beside:
        print(f"\nthe same bytes of all arrays: {same}")


def _seconds_of(command: list[str], data: Path) -> tuple[float, float]:
    """Run a command with `data` as its data folder; return its seconds, and those of the processor."""
    environment = os.environ | {"VOICETOIMG_DATA_DIR": str(data)}
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return time.perf_counter() - started, processor


def _arrays_sha256(data: Path) -> str:
    """Hash the arrays that the three scripts wrote: of latents their numbers, of others their files."""
    digest = hashlib.sha256()
    for path in sorted((*data.rglob("*.npy"), *data.rglob("*.npz"))):
        digest.update(path.read_bytes())
    for path in sorted(data.rglob("*.pt")):
        digest.update(read_latents(path).numpy().tobytes())
    return digest.hexdigest()


# --- memory ----------------------------------------------------------------------------------------------------------
def made_up(
    folder: str, path: str, limited: bool, recipe: features.Recipe, channel: int | None = None, trim: bool = True
) -> FileResult:
    """Replace `audio.batch.measure` by random vectors, so that 100,000 files take minutes and not hours."""
    digest = hashlib.sha256(path.encode()).hexdigest()
    vector = np.random.default_rng(int(digest[:8], 16)).uniform(-80, 0, recipe.vector_size).astype(np.float32)
    return FileResult(path, vector, 1.0, 22_050, "libsndfile", digest)


def memory_figures(rows: int) -> None:
    """Print the part `memory`."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "in")
        for index in range(rows):
            place = folder / f"{index // 1000:04}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{index:07}.wav").touch()
        environment = os.environ | {"VOICETOIMG_DATA_DIR": temporary}
        matrix = Path(temporary, "data/vectors/audio_spectrogram_vectors.npy")
        own = ["-m", "benchmarks.phase1", "--rows-of", str(folder), str(matrix)]
        commands = {"prep_audio_spectrograms.py, parent": own}
        commands |= {script: [script] for script in ("z_transformation_with_stats.py", "prep_ldm.py")}
        print(f"\n| N = {rows} | peak of the process, MB | s |\n| --- | --- | --- |")
        for name, command in commands.items():
            seconds, peak = run_command([sys.executable, *command], environment, config.REPO_DIR)
            print(f"| {name} | {peak / 1e6:.0f} | {seconds:.0f} |", flush=True)


def rows_of(folder: Path, matrix: Path) -> None:
    """Make a matrix with random vectors: the process whose memory is measured."""
    batch.measure = made_up
    batch.prepare_batch(folder, matrix, workers=2)


# --- live ------------------------------------------------------------------------------------------------------------
def live_figures(runs: int) -> None:
    """Print the part `live`."""
    voice, calibration = config.EXAMPLES_DIR / "voice_it.wav", config.BUILTIN_CALIBRATION_DIR
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / "plain.py").write_text(PLAIN_LIVE)
        commands = {
            "plain recipe": [f"{temporary}/plain.py", str(voice), str(calibration), f"{temporary}/plain.pt"],
            "process_live_audio.py": [
                str(config.REPO_DIR / "process_live_audio.py"),
                f"--input_file={voice}",
                f"--output_file={temporary}/live.pt",
            ],
        }
        environment = {k: v for k, v in os.environ.items() if k not in THREADS}
        walls: dict[str, list[float]] = {name: [] for name in commands}
        for run in range(runs + 1):
            for name, command in commands.items():
                started = time.perf_counter()
                subprocess.run([sys.executable, *command], env=environment, check=True, capture_output=True)
                if run:  # the first one fills the page cache
                    walls[name].append(time.perf_counter() - started)
    plain, own = (statistics.median(taken) for taken in walls.values())
    print(f"\n| whole process, 5 s of sound | s |\n| --- | --- |\n| plain recipe | {plain:.2f} |")
    print(f"| process_live_audio.py | {own:.2f} |\n\nratio {own / plain:.2f}")


def build_parser() -> cli.CommandParser:
    """Build the parser of the command line."""
    parser = cli.CommandParser(__doc__)
    add = parser.add_argument
    add("source", type=cli.existing_folder, metavar="SOURCE", help="folder of the unpacked packages")
    add("--only", choices=("batch", "scripts", "memory", "live"), help="measure this part alone")
    add("--beside", type=cli.existing_folder, metavar="DIR", help="in part scripts: another checkout of this program")
    add(
        "--recordings",
        type=cli.bounded(int, 1),
        default=1000,
        metavar="N",
        help="in parts batch and scripts (default: %(default)s)",
    )
    add("--rows", type=cli.bounded(int, 1), default=100_000, metavar="N", help="in part memory (default: %(default)s)")
    add("--runs", type=cli.bounded(int, 1), default=5, metavar="N", help="(default: %(default)s)")
    return parser


def main() -> None:
    """Run the command line."""
    os.environ |= dict.fromkeys(THREADS, "1")  # for workers and scripts: one worker shall use one core
    if sys.argv[1:2] == ["--rows-of"]:
        rows_of(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    options = build_parser().parse_args()
    with threadpool_limits(1):  # for this process, whose libraries have read the environment already
        if options.only in (None, "batch"):
            batch_figures(options.source.resolve(), options.recordings, options.runs)
        if options.only in (None, "scripts"):
            scripts_figures(options.source.resolve(), options.recordings, options.runs, options.beside)
        if options.only in (None, "memory"):
            memory_figures(options.rows)
        if options.only in (None, "live"):
            live_figures(options.runs)


if __name__ == "__main__":
    cli.run(main)
