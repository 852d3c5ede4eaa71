"""Run the benchmarks whose figures the documentation quotes, and write one report: python -m benchmarks.report

    make bench                       # all that need no recordings
    make bench VOICES=FOLDER         # all; FOLDER holds the unpacked packages that models/calibration/README.md names
    make bench BENCH_QUICK=1         # smallest sizes, to see that everything runs here; do not quote the figures

Writes benchmarks/results.md again after each program: machine, date, and the command and output of each program. A
program that cannot run here is named in one line, and the others still run.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import cli
import config
from files import atomic_path
from tests import sound

RESULTS = Path(__file__).with_name("results.md")
VOICES = "VOICES"  # stands for the folder of recordings in a command
LARGE_MEMORY, LARGE_DISK = 14e9, 10e9  # bytes that benchmarks/large_model.py needs


@dataclass(frozen=True)
class Benchmark:
    """One program, and its commands."""

    title: str
    command: str  # after "python -m benchmarks."
    quick: str  # the same with the smallest sizes
    lacks: Callable[[bool], str] = lambda quick: ""  # says what this machine lacks, or ""


def lacks_room(quick: bool) -> str:
    """Say what the 1.45 B model lacks here; the small one runs everywhere."""
    if quick:
        return ""
    if (memory := memory_bytes()) < LARGE_MEMORY:
        return f"needs {LARGE_MEMORY / 1e9:.0f} GB of memory, this machine has {memory / 1e9:.0f}"
    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    return "" if free >= LARGE_DISK else f"needs {LARGE_DISK / 1e9:.0f} GB free in {folder}, there are {free / 1e9:.0f}"


BENCHMARKS = (
    Benchmark("Imports", "imports", "imports --repeat 1"),
    Benchmark(
        "From ENTER to the image",
        "enter_to_image",
        "enter_to_image --recordings 1 --steps 2",
        lambda quick: sound.missing(),
    ),
    Benchmark("One recording, as a whole process", "phase1 . --only live", "phase1 . --only live --runs 1"),
    Benchmark(
        "Phase 1 beside the plain librosa loop",
        f"phase1 {VOICES} --only batch",
        f"phase1 {VOICES} --only batch --recordings 20 --runs 1",
    ),
    Benchmark(
        "The three scripts of phase 1",
        f"phase1 {VOICES} --only scripts --recordings 250",
        f"phase1 {VOICES} --only scripts --recordings 20 --runs 1",
    ),
    Benchmark("Films", "film", "film --only path,moment,kill --seconds 6"),
    Benchmark("Voices in x_T", f"voice {VOICES}", f"voice {VOICES}"),
    Benchmark("The 1.45 B model beside diffusers", "large_model", "large_model --small --repeat 1", lacks_room),
    Benchmark("Pipelines of diffusers", "diffusers_overhead", "diffusers_overhead --small --repeat 1", lacks_room),
    Benchmark("Every kind of pipeline", f"pipelines {VOICES}", "pipelines"),
)


def memory_bytes() -> int:
    """Return the size of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def processor() -> str:
    """Name the CPU, as far as the system knows it."""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def machine() -> str:
    """Describe in one line what figures depend on."""
    return (
        f"{processor()}, {os.cpu_count()} cores, {memory_bytes() / 2**30:.0f} GiB of memory; {platform.system()}, "
        f"Python {platform.python_version()}, torch {version('torch')}"
    )


def measured(benchmark: Benchmark, voices: Path | None, quick: bool) -> tuple[str, bool]:
    """Run one benchmark; return its section of the report, and whether it failed."""
    command = benchmark.quick if quick else benchmark.command
    lacking = benchmark.lacks(quick)
    if VOICES in command and not voices:
        lacking = "needs a folder of recordings: make bench VOICES=FOLDER (see models/calibration/README.md)"
    head = f"## {benchmark.title}\n\n`python -m benchmarks.{command}`"
    if lacking:
        print(f"not run: {command}: it {lacking}", file=sys.stderr)
        return f"{head}: not measured, it {lacking}", False
    print(f"python -m benchmarks.{command}", flush=True)
    program, *words = [str(voices) if word == VOICES else word for word in shlex.split(command)]
    started = time.perf_counter()
    start = [sys.executable, "-m", f"benchmarks.{program}", *words]
    done = subprocess.run(start, cwd=config.REPO_DIR, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - started
    print(done.stdout)
    if done.returncode:
        return f"{head}: failed with status {done.returncode}", True
    return f"{head}, {seconds:.0f} s\n\n{as_markdown(done.stdout)}", False


def as_markdown(printed: str) -> str:
    """Keep tables as they are, and indent all other lines as code."""
    parts = []
    for is_table, lines in groupby(printed.splitlines(), key=lambda line: line.startswith("|")):
        if text := "\n".join(line if is_table else f"    {line}" for line in lines if line.strip()):
            parts.append(text)
    return "\n\n".join(parts)


def main() -> int:
    """Run the command line."""
    parser = cli.CommandParser(__doc__)
    add = parser.add_argument
    add("--voices", type=cli.existing_folder, metavar="FOLDER", help="recordings, for the figures about voices")
    add("--quick", action="store_true", help="smallest sizes, to see that everything runs")
    add("--output_file", type=cli.new_file(".md"), default=RESULTS, metavar="F", help="(default: %(default)s)")
    options = parser.parse_args()
    voices = options.voices.resolve() if options.voices else None
    head = f"# Benchmarks\n\n{date.today()}. {machine()}.\n\nFigures are medians. Ratios compare measurements by turns."
    if options.quick:
        head += " **Smallest sizes, to try the programs: do not quote these figures.**"
    sections, failures = [head], 0
    for benchmark in BENCHMARKS:
        section, failed = measured(benchmark, voices, options.quick)
        sections.append(section)
        failures += failed
        with atomic_path(options.output_file) as temporary:
            temporary.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    print(f"report: {options.output_file}")
    return 1 if failures else 0


if __name__ == "__main__":
    cli.run(main)
