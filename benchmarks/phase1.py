"""How fast phase 1 is, and how much memory it takes: beside the plain recipe, in one run.

    python benchmarks/phase1.py SOURCE                    # all three parts
    python benchmarks/phase1.py SOURCE --only batch       # or batch, memory, live
    python benchmarks/phase1.py SOURCE --only batch --recordings 100 --runs 1    # a quick look

batch    1,000 real recordings: the serial librosa loop that the recipe is, against prep_audio_spectrograms.py's own
         function with one and with two workers; files/s, ratios, the same bits, and how far from librosa.
memory   peak of the parent process while 100,000 rows (recordings of noise, made up in the workers) become a matrix,
         and of z_transformation_with_stats.py's and prep_ldm.py's processes on it.
live     process_live_audio.py as a whole process, against a script that is the plain recipe.

SOURCE holds the unpacked Debian packages that models/calibration/README.md names. Each figure is a median of --runs.
"""

import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "models" / "calibration")]
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # before NumPy: a core is a core
    os.environ[name] = "1"

import numpy as np  # noqa: E402
import select_recordings as calibration_set  # noqa: E402

import cli  # noqa: E402
from audio import batch, features  # noqa: E402
from audio.batch_state import FileResult  # noqa: E402

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
    plain: dict = {}
    exec(PLAIN, plain)  # the very code that a plain script would run
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "in")
        folder.mkdir()
        paths = calibration_set.spaced(calibration_set.select(source), count)
        for index, path in enumerate(paths):
            (folder / f"{index:05}{path.suffix}").symlink_to(path)
        links = sorted(folder.iterdir())
        plain["vector"](links[0])  # librosa imports the rest of itself at first use
        figures: dict[str, list[float]] = {"plain librosa loop": [], "1 worker": [], "2 workers": []}
        digests = set()
        for run in range(runs):  # taken in turn, so that a change of the machine's speed meets all alike
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
    """What a plain script does, with the one thing it cannot do without: files that cannot be read are left out."""
    vectors = []
    for path in paths:
        try:
            made = vector(path)
            vectors.append(made if made.max() > made.min() else None)
        except Exception:
            vectors.append(None)
    return vectors


# --- memory ----------------------------------------------------------------------------------------------------------
def made_up(folder: str, path: str, limited: bool, recipe: features.Recipe) -> FileResult:
    """In place of `audio.batch.measure`: rows cost nothing here, so that 100,000 take minutes, not hours."""
    digest = hashlib.sha256(path.encode()).hexdigest()
    vector = np.random.default_rng(int(digest[:8], 16)).uniform(-80, 0, recipe.vector_size).astype(np.float32)
    return FileResult(path, vector, 1.0, 22_050, "libsndfile", digest)


def memory_figures(rows: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "in")
        for index in range(rows):
            place = folder / f"{index // 1000:04}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{index:07}.wav").touch()
        environment = os.environ | {"VOICETOIMG_DATA_DIR": temporary}
        matrix = Path(temporary, "data/vectors/audio_spectrogram_vectors.npy")
        own = [sys.executable, __file__, "--rows-of", str(folder), str(matrix)]
        print(f"\n| N = {rows} | peak of the process, MB | s |\n| --- | --- | --- |")
        scripts = ("z_transformation_with_stats.py", "prep_ldm.py")
        for name, command in (
            ("prep_audio_spectrograms.py, parent", own),
            *((script, [sys.executable, str(ROOT / script)]) for script in scripts),
        ):
            started = time.perf_counter()
            peak = _peak_of(command, environment)
            print(f"| {name} | {peak / 1e6:.0f} | {time.perf_counter() - started:.0f} |", flush=True)
    print("\nprep_ldm.py maps its input: its peak counts pages of the file that the system may drop at any time")


def _peak_of(command: list[str], environment: dict[str, str]) -> int:
    """Largest resident set, in bytes, of a command's own process (not of its children)."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[1]} failed with status {process.returncode}")
    return used.ru_maxrss * 1024


def rows_of(folder: Path, matrix: Path) -> None:
    batch.measure = made_up
    batch.prepare_batch(folder, matrix, workers=2)


# --- live ------------------------------------------------------------------------------------------------------------
def live_figures(runs: int) -> None:
    voice, calibration = ROOT / "examples" / "voice_it.wav", ROOT / "models" / "calibration"
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / "plain.py").write_text(PLAIN_LIVE)
        commands = {
            "plain recipe": [f"{temporary}/plain.py", str(voice), str(calibration), f"{temporary}/plain.pt"],
            "process_live_audio.py": [
                str(ROOT / "process_live_audio.py"), f"--input_file={voice}", f"--output_file={temporary}/live.pt"
            ],
        }  # fmt: skip
        environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
        walls: dict[str, list[float]] = {name: [] for name in commands}
        for run in range(runs + 1):
            for name, command in commands.items():
                started = time.perf_counter()
                subprocess.run([sys.executable, *command], env=environment, check=True, capture_output=True)
                if run:  # the first fills the caches
                    walls[name].append(time.perf_counter() - started)
    plain, own = (statistics.median(taken) for taken in walls.values())
    print(f"\n| whole process, 5 s of sound | s |\n| --- | --- |\n| plain recipe | {plain:.2f} |")
    print(f"| process_live_audio.py | {own:.2f} |\n\nratio {own / plain:.2f}")


def main() -> None:
    if sys.argv[1:2] == ["--rows-of"]:
        rows_of(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    parser = cli.CommandParser(__doc__)
    parser.add_argument("source", type=cli.existing_folder, metavar="SOURCE", help="where the packages were unpacked")
    parser.add_argument("--only", choices=("batch", "memory", "live"))
    parser.add_argument(
        "--recordings", type=cli.bounded(int, 1), default=1000, metavar="N", help="of part batch (default: %(default)s)"
    )
    parser.add_argument(
        "--rows", type=cli.bounded(int, 1), default=100_000, metavar="N", help="of part memory (default: %(default)s)"
    )
    parser.add_argument("--runs", type=cli.bounded(int, 1), default=5, metavar="N", help="(default: %(default)s)")
    options = parser.parse_args()
    if options.only in (None, "batch"):
        batch_figures(options.source.resolve(), options.recordings, options.runs)
    if options.only in (None, "memory"):
        memory_figures(options.rows)
    if options.only in (None, "live"):
        live_figures(options.runs)


if __name__ == "__main__":
    cli.run(main)
