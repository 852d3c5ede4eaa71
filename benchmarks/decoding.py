"""Measure the speed of phase 1 on files of several kinds, side by side with another checkout.

    git worktree add /tmp/before d5cd660
    python -m benchmarks.decoding --against /tmp/before

Of each kind, --files recordings are made from those in examples/, with ffmpeg. Each tree turns them into a matrix with
one worker, in a process of its own, by turns. Printed are medians of --runs: files/s of both trees, and the ratio. The
start of Python and its imports are not counted.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import cli
import config
from benchmarks.phase1 import THREADS

KINDS: dict[str, tuple[str, ...]] = {  # options of ffmpeg
    "wav": (), "mp3": (), "ogg": ("-c:a", "libvorbis"), "m4a": ("-c:a", "aac"), "webm": ("-c:a", "libopus"), "amr": (),
}  # fmt: skip
BATCH = """
import sys
from pathlib import Path
from audio.batch import prepare_batch
report = prepare_batch(Path(sys.argv[1]), Path(sys.argv[2]), workers=1)
print(report.rows, report.wall)
"""


def make(kind: str, folder: Path, count: int) -> int:
    """Write recordings of one kind, each cut in another place; return how many there are, 0 if none can be made."""
    folder.mkdir()
    voices = sorted(path for path in config.EXAMPLES_DIR.iterdir() if path.suffix in (".wav", ".ogg"))
    for number in range(count):
        voice, begin = voices[number % len(voices)], 0.01 * (number // len(voices))
        target = folder / f"{number:04}.{kind}"
        if kind == "amr":
            if not encode_amr(voice, target, begin):
                return 0
            continue
        options = ["-ss", str(begin), "-i", str(voice), *KINDS[kind]]
        command = ["ffmpeg", "-nostdin", "-v", "error", *options, str(target)]
        subprocess.run(command, check=True)
    return count


def encode_amr(voice: Path, target: Path, begin: float) -> bool:
    """Write narrow-band AMR with PyAV, since ffmpeg is rarely built with an encoder of it; tell whether it has one."""
    import av
    import soundfile
    import soxr

    try:
        av.CodecContext.create("libopencore_amrnb", "w")
    except Exception:  # PyAV has several errors for it
        return False
    samples, rate = soundfile.read(voice, dtype="float32", always_2d=True)
    sound = soxr.resample(samples.mean(axis=1)[round(begin * rate) :], rate, 8000)
    with av.open(str(target), "w", format="amr") as writer:
        stream = writer.add_stream("libopencore_amrnb", rate=8000, layout="mono")
        stream.bit_rate = 12_200
        frame = av.AudioFrame.from_ndarray((sound * 32767).clip(-32768, 32767).astype("int16")[None], "s16", "mono")
        frame.sample_rate = 8000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            writer.mux(packet)
    return True


def files_per_second(tree: Path, recordings: Path) -> float:
    """Run one batch in a tree."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= dict.fromkeys(THREADS, "1")
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-c", BATCH, str(recordings), f"{out}/v.npy"]
        result = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"the batch in {tree} failed: {result.stderr.splitlines()[-1]}")
    rows, wall = result.stdout.split()[-2:]
    if int(rows) != len(list(recordings.iterdir())):
        raise RuntimeError(f"{tree} reads {rows} of {len(list(recordings.iterdir()))} files in {recordings.name}")
    return int(rows) / float(wall)


def build_parser() -> cli.CommandParser:
    """Build the parser of the command line."""
    parser = cli.CommandParser(__doc__)
    add = parser.add_argument
    add("--against", type=cli.existing_folder, required=True, metavar="FOLDER", help="another checkout")
    add("--files", type=cli.bounded(int, 1), default=80, metavar="N", help="of each kind (default: %(default)s)")
    add("--runs", type=cli.bounded(int, 1), default=5, metavar="N", help="(default: %(default)s)")
    return parser


def main() -> None:
    """Run the command line."""
    options = build_parser().parse_args()
    if not shutil.which("ffmpeg"):
        raise RuntimeError("ffmpeg, which makes the files, is not installed")
    trees = {"before": options.against.resolve(), "now": config.REPO_DIR}
    print("| kind | before, files/s | now, files/s | ratio |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as temporary:
        for kind in KINDS:
            folder = Path(temporary, kind)
            if not make(kind, folder, options.files):
                print(f"| {kind} | | | PyAV has no encoder |")
                continue
            speeds: dict[str, list[float]] = {name: [] for name in trees}
            for _ in range(options.runs):  # by turns, so that a change of the machine's speed affects both
                for name, tree in trees.items():
                    speeds[name].append(files_per_second(tree, folder))
            before, now = (statistics.median(speeds[name]) for name in ("before", "now"))
            print(f"| {kind} | {before:.1f} | {now:.1f} | {now / before:.2f} |", flush=True)


if __name__ == "__main__":
    cli.run(main)
