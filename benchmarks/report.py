"""The benchmarks behind the README's figures, one after the other, as one report: python benchmarks/report.py

    make bench                       # what needs no recordings
    make bench VOICES=FOLDER         # all; FOLDER holds the packages that models/calibration/README.md names, unpacked
    make bench BENCH_QUICK=1         # smallest sizes: does everything run here? Not to be quoted

Writes benchmarks/results.md anew after each program: machine, date, and for each program its command and what it
printed. What cannot run here is named in one line, and the others run all the same.
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

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import sound  # noqa: E402

import cli  # noqa: E402
from files import atomic_path  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results.md"
VOICES = "VOICES"  # in a command: the folder of recordings
LARGE_MEMORY, LARGE_DISK = 14e9, 10e9  # bytes, of benchmarks/large_model.py


@dataclass(frozen=True)
class Benchmark:
    """One program, its command, and what it needs to run here."""

    title: str
    command: str  # after "python "
    quick: str  # the smallest command that runs all of it
    lacks: Callable[[bool], str] = lambda quick: ""  # what this machine does not have, or ""


def lacks_room(quick: bool) -> str:
    """Whether the 1.45 B model has room here; its small shape has everywhere."""
    if quick:
        return ""
    if (memory := memory_bytes()) < LARGE_MEMORY:
        return f"needs {LARGE_MEMORY / 1e9:.0f} GB of memory, this machine has {memory / 1e9:.0f}"
    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    return "" if free >= LARGE_DISK else f"needs {LARGE_DISK / 1e9:.0f} GB free in {folder}, there are {free / 1e9:.0f}"


BENCHMARKS = (
    Benchmark("Imports", "benchmarks/imports.py", "benchmarks/imports.py --repeat 1"),
    Benchmark(
        "From ENTER to the picture",
        "benchmarks/enter_to_picture.py",
        "benchmarks/enter_to_picture.py --recordings 1 --steps 2",
        lambda quick: sound.missing(),
    ),
    Benchmark(
        "One recording, as a whole process",
        "benchmarks/phase1.py . --only live",
        "benchmarks/phase1.py . --only live --runs 1",
    ),
    Benchmark(
        "Phase 1 beside the plain librosa loop",
        f"benchmarks/phase1.py {VOICES} --only batch",
        f"benchmarks/phase1.py {VOICES} --only batch --recordings 20 --runs 1",
    ),
    Benchmark("Voices in x_T", f"benchmarks/voice.py {VOICES}", f"benchmarks/voice.py {VOICES}"),
    Benchmark(
        "The 1.45 B model beside diffusers",
        "benchmarks/large_model.py",
        "benchmarks/large_model.py --small --repeat 1",
        lacks_room,
    ),
)


def memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def processor() -> str:
    """The CPU's name, where the system tells it."""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def machine() -> str:
    """In one line, what figures depend on."""
    return (
        f"{processor()}, {os.cpu_count()} cores, {memory_bytes() / 2**30:.0f} GiB of memory; {platform.system()}, "
        f"Python {platform.python_version()}, torch {version('torch')}"
    )


def measured(benchmark: Benchmark, voices: Path | None, quick: bool) -> tuple[str, bool]:
    """The report's section on one benchmark, and whether it failed."""
    command = benchmark.quick if quick else benchmark.command
    lacking = benchmark.lacks(quick)
    if VOICES in command and not voices:
        lacking = "needs a folder of recordings: make bench VOICES=FOLDER (see models/calibration/README.md)"
    head = f"## {benchmark.title}\n\n`python {command}`"
    if lacking:
        print(f"left out: {command}: {lacking}", file=sys.stderr)
        return f"{head}: not measured, it {lacking}", False
    print(f"python {command}", flush=True)
    words = [str(voices) if word == VOICES else word for word in shlex.split(command)]
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - started
    print(done.stdout)
    if done.returncode:
        return f"{head}: failed with status {done.returncode}", True
    return f"{head}, {seconds:.0f} s\n\n{as_markdown(done.stdout)}", False


def as_markdown(printed: str) -> str:
    """Tables as they are, all other lines as they stand."""
    parts = []
    for is_table, lines in groupby(printed.splitlines(), key=lambda line: line.startswith("|")):
        if text := "\n".join(line if is_table else f"    {line}" for line in lines if line.strip()):
            parts.append(text)
    return "\n\n".join(parts)


def main() -> int:
    parser = cli.CommandParser(__doc__)
    parser.add_argument(
        "--voices", type=cli.existing_folder, metavar="FOLDER", help="recordings, for the figures about voices"
    )
    parser.add_argument("--quick", action="store_true", help="smallest sizes, to try that everything runs")
    parser.add_argument(
        "--output_file", type=cli.new_file(".md"), default=RESULTS, metavar="F", help="(default: %(default)s)"
    )
    options = parser.parse_args()
    voices = options.voices.resolve() if options.voices else None
    head = f"# Benchmarks\n\n{date.today()}. {machine()}.\n\nMedians; ratios are taken in one run, turn by turn."
    if options.quick:
        head += " **With the smallest sizes, to try the programs: no figures to quote.**"
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
