"""Measure the imports of txt2img.py beside torch alone: python -m benchmarks.imports [--repeat 7] [--slowest 10]

Runs txt2img.py once and lists the modules that it has imported at its end. Then imports torch alone, and all of these
modules, by turns in fresh processes, and prints the medians and their ratio. The limit is 1.3.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import cli
import config

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
    """Run `code` in `folder`, in a fresh process that can import the modules of this checkout."""
    command = [sys.executable, *options, "-c", code, *arguments]
    environment = os.environ | {"PYTHONPATH": str(config.REPO_DIR)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)


def needed(folder: Path) -> list[str]:
    """List the modules that txt2img.py has imported at its end and torch alone does not import, in their order."""
    python(LATENTS, folder)
    used = json.loads(python(MODULES, folder).stdout.splitlines()[-1])
    torch_alone = "import json, sys, torch\nprint(json.dumps(list(sys.modules)))"
    known = {"json", *json.loads(python(torch_alone, folder).stdout)}
    return [name for name in used if name not in known]


def main() -> None:
    """Run the command line."""
    parser = cli.CommandParser(__doc__)
    add = parser.add_argument
    add("--repeat", type=cli.bounded(int, 1), default=7, metavar="N", help="imports of each kind (default: 7)")
    add("--slowest", type=cli.bounded(int, 1), default=10, metavar="N", help="slowest modules to list (default: 10)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        both = (["torch"], ["torch", *needed(folder)])
        seconds = [[float(python(SECONDS, folder, *names).stdout) for names in both] for _ in range(args.repeat)]
        alone, everything = (statistics.median(column) for column in zip(*seconds, strict=True))
        print(f"import torch: {alone:.2f} s; everything, {len(both[1]) - 1} modules more: {everything:.2f} s")
        print(f"ratio: {everything / alone:.2f} (limit: 1.30)")
        said = python(SECONDS, folder, *both[1], options=("-X", "importtime")).stderr
        times = re.findall(r"import time:\s+\d+ \|\s+(\d+) \|\s+(\S+)", said)
        beside_torch = [(int(total), module) for total, module in times if module in both[1][1:]]
        for total, module in sorted(beside_torch, reverse=True)[: args.slowest]:
            print(f"{total / 1000:8.0f} ms with what it imports  {module}")


if __name__ == "__main__":
    cli.run(main)
