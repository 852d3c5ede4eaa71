"""What txt2img.py imports, beside torch alone: python benchmarks/imports.py [--repeat 7] [--slowest 10]

Runs txt2img.py once and notes which modules it has imported when it ends; then imports torch alone, and all of these,
in fresh processes by turns, and prints the medians and their ratio. Bar: 1.3.
"""

import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cli  # noqa: E402

LATENTS = """
import torch
torch.save(torch.randn(1, 4, 32, 32), 'latents.pt')
"""
MODULES = """
import json, sys
import txt2img
txt2img.main(['--init_latents', 'latents.pt', '--ddim_steps', '1', '--outdir', '.', '--n_samples', '2'])
print(json.dumps([name for name, module in sys.modules.items() if getattr(module, '__spec__', None)]))
"""
SECONDS = """
import sys, time
names = sys.argv[1:]
start = time.perf_counter()
for name in names:
    __import__(name)
print(time.perf_counter() - start)
"""


def python(code: str, folder: Path, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    """Run `code` in a fresh process that finds this program's modules."""
    command = [sys.executable, *options, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)


def needed(folder: Path) -> list[str]:
    """Names of the modules that txt2img.py has imported at its end and torch alone does not, in their order."""
    python(LATENTS, folder)
    used = json.loads(python(MODULES, folder).stdout.splitlines()[-1])
    torch_alone = "import json, sys, torch\nprint(json.dumps(list(sys.modules)))"
    known = {"json", *json.loads(python(torch_alone, folder).stdout)}
    return [name for name in used if name not in known]


def main() -> None:
    parser = cli.CommandParser(__doc__)
    parser.add_argument(
        "--repeat", type=cli.bounded(int, 1), default=7, metavar="N", help="imports of either kind (default: 7)"
    )
    parser.add_argument(
        "--slowest", type=cli.bounded(int, 1), default=10, metavar="N", help="modules to name (default: 10)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        both = (["torch"], ["torch", *needed(folder)])
        seconds = [[float(python(SECONDS, folder, *names).stdout) for names in both] for _ in range(args.repeat)]
        alone, everything = (statistics.median(column) for column in zip(*seconds, strict=True))
        print(f"import torch: {alone:.2f} s; everything, {len(both[1]) - 1} modules more: {everything:.2f} s")
        print(f"ratio: {everything / alone:.2f} (bar: 1.30)")
        said = python(SECONDS, folder, *both[1], options=("-X", "importtime")).stderr
        times = re.findall(r"import time:\s+\d+ \|\s+(\d+) \|\s+(\S+)", said)
        beside_torch = [(int(total), module) for total, module in times if module in both[1][1:]]
        for total, module in sorted(beside_torch, reverse=True)[: args.slowest]:
            print(f"{total / 1000:8.0f} ms with what it imports  {module}")


if __name__ == "__main__":
    cli.run(main)
