"""The package works under another name and without the rest of the tree, as another program may use it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import config

LOAD = """
import importlib, importlib.util, sys
from pathlib import Path

folder = Path(sys.argv[1])
spec = importlib.util.spec_from_file_location(
    "another_name", folder / "__init__.py", submodule_search_locations=[str(folder)]
)
package = importlib.util.module_from_spec(spec)
sys.modules["another_name"] = package
spec.loader.exec_module(package)
"""
FROM_RECORDING_TO_X_T = """
modules = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("__"))
for module in modules:
    importlib.import_module(f"another_name.{module}")
assert {"features", "calibration", "initial_noise", "recorder"} <= set(modules)
assert not [name for name in sys.modules if name.split(".")[0] in ("audio", "files", "cli", "config")]

import numpy as np
from another_name.calibration import Calibration
from another_name.features import extract
from another_name.gaussianity import is_gaussian
from another_name.initial_noise import Voices, initial_noise
from another_name.whitening import Whitening

calibration, recording = Path(sys.argv[2]), Path(sys.argv[3])
latents = Calibration.load(calibration).z_score(extract(recording).vector).reshape(1, 4, 32, 32)
voices = Voices(latents, Whitening.load(calibration / "whitening.npz"))
noise = np.random.default_rng(0).standard_normal((16, 64, 64), dtype=np.float32)
x_T = initial_noise([(voices, 0, 1.0)], noise, 0.9)
assert x_T.shape == noise.shape and is_gaussian(x_T[None])[0]
"""
BATCH = """
from another_name.batch import prepare_batch

if __name__ == "__main__":
    report = prepare_batch(Path(sys.argv[2]), Path("vectors.npy"), workers=2)
    assert (report.rows, report.skipped) == (3, 0), report
"""


def run(program: str, folder: Path, *arguments: Path) -> None:
    """Run a program in `folder`, from where Python does not find the modules of the tree."""
    (folder / "program.py").write_text(program, encoding="utf-8")
    command = [sys.executable, "program.py", str(config.REPO_DIR / "audio"), *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_recording_becomes_x_T(tmp_path):
    run(LOAD + FROM_RECORDING_TO_X_T, tmp_path, config.BUILTIN_CALIBRATION_DIR, config.EXAMPLES_DIR / "voice_it.wav")


@pytest.mark.slow
def test_worker_processes_find_the_package(tmp_path):
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    for path in sorted(config.EXAMPLES_DIR.glob("voice_*.wav"))[:3]:
        (recordings / path.name).symlink_to(path)
    run(LOAD + BATCH, tmp_path, recordings)
