"""The pack that stands alone: python -m comfyui PATH."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import config
from tests.comfyui.packs import audio_of, load_pack
from tests.programs import run_main
from tests.recordings import speech

NOTHING_HEAVY = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("/x/voicetoimg", sys.argv[1] + "/__init__.py")
module = importlib.util.module_from_spec(spec)
sys.modules["/x/voicetoimg"] = module
spec.loader.exec_module(module)
for node in module.NODE_CLASS_MAPPINGS.values():
    node.INPUT_TYPES()
print(sorted({"torch", "numpy", "cv2", "soundfile", "soxr", "scipy", "comfy", "audio"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("custom_nodes") / "voicetoimg"
    done = run_main("comfyui.__main__", folder, data=folder.parent)
    assert done.returncode == 0 and f"written: {folder}" in done.stdout, done
    assert [path.name for path in folder.parent.iterdir()] == ["voicetoimg"]
    return folder


def test_it_makes_the_same_noise_without_the_project(exported, tmp_path):
    (tmp_path / "link").symlink_to(config.REPO_DIR / "comfyui")
    audio = audio_of(speech(0.5, 16_000), 16_000)
    made = []
    for pack in (load_pack(exported), load_pack(tmp_path / "link")):
        (noise,) = pack.NODE_CLASS_MAPPINGS["VoicetoimgNoise"]().make(audio, 1.0, "from the voice", 0)
        made.append(noise.generate_noise({"samples": torch.zeros(1, 4, 32, 32)}))
        code = sys.modules[f"{pack.__name__}.audio.whitening"].__file__
        assert code and Path(code).is_relative_to(exported if len(made) == 1 else config.REPO_DIR)
    assert torch.equal(*made)


def test_nothing_heavy_is_imported_when_comfyui_starts(exported):
    done = subprocess.run([sys.executable, "-c", NOTHING_HEAVY, exported], capture_output=True, text=True, cwd="/")
    assert done.stdout.strip() == "[]", done.stderr


def test_it_holds_what_the_nodes_need_and_no_model(exported):
    names = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    names = {name for name in names if "__pycache__" not in name}  # of the tests here
    assert {"LICENSE", "requirements.txt", "models/calibration/whitening.npz", "models/calibration/README.md"} <= names
    assert not [name for name in names if name.endswith("__main__.py") or "chladni" in name]
    assert sum((exported / name).stat().st_size for name in names) < 4e6
    assert {path.stem for path in exported.glob("example_workflows/*.json")}


@pytest.mark.parametrize("kind", ["exists", "a link to nothing", "no folder"])
def test_places_that_cannot_be_written_to(kind, tmp_path):
    path = {"exists": tmp_path, "a link to nothing": tmp_path / "link"}.get(kind, tmp_path / "no" / "voicetoimg")
    if kind == "a link to nothing":
        path.symlink_to(tmp_path / "nothing")
    done = run_main("comfyui.__main__", path, data=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and str(tmp_path) in done.stderr


def test_a_folder_that_is_switched_off_is_kept(tmp_path):
    (tmp_path / "v.disabled").mkdir()
    done = run_main("comfyui.__main__", tmp_path / "v", data=tmp_path)
    assert done.returncode == 1 and "v.disabled exists" in done.stderr and (tmp_path / "v.disabled").is_dir()


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    def full(*paths: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copy", full)
    done = run_main("comfyui.__main__", tmp_path / "v", data=tmp_path)
    assert done.returncode == 1 and "no space" in done.stderr and not list(tmp_path.glob("v*"))


def test_a_full_disk_is_told_in_one_sentence(tmp_path, monkeypatch):
    def full(source: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(source))

    monkeypatch.setattr(shutil, "copyfile", full)
    done = run_main("comfyui.__main__", tmp_path / "v", data=tmp_path)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "no space" in done.stderr, done.stderr
    assert "[" not in done.stderr and not list(tmp_path.glob("v*"))


def test_a_place_within_what_is_copied(tmp_path, monkeypatch):
    for name in ("comfyui", "audio", "models/calibration"):
        shutil.copytree(config.REPO_DIR / name, tmp_path / name)
    shutil.copy(config.REPO_DIR / "LICENSE", tmp_path)
    monkeypatch.setattr(config, "REPO_DIR", tmp_path)
    done = run_main("comfyui.__main__", tmp_path / "comfyui" / "example_workflows" / "v", data=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("nodes.py"))) == 2


def test_it_is_written_without_any_package(tmp_path):
    """Not everybody who has ComfyUI's packages has those of this project."""
    command = [sys.executable, "-S", "-m", "comfyui", str(tmp_path / "v")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=config.REPO_DIR)
    assert done.returncode == 0 and (tmp_path / "v" / "nodes.py").is_file(), done.stderr


EXAMPLES = config.REPO_DIR / "comfyui" / "example_workflows"


@pytest.mark.parametrize("name", ["voice_sd15", "voice_flux"])
def test_example_workflows_use_the_nodes_as_they_are(name):
    """Both forms of an example give our nodes the inputs that they have, and hold the same values."""
    import comfyui

    commands = json.loads((EXAMPLES / "api" / f"{name}.json").read_text(encoding="utf-8"))
    drawn = {node["id"]: node for node in json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))["nodes"]}
    assert {node["class_type"] for node in commands.values()} == {node["type"] for node in drawn.values()}
    for number, node in commands.items():
        values = [value for value in node["inputs"].values() if not isinstance(value, list)]
        there = drawn[int(number)]
        assert there["type"] == node["class_type"]
        assert [value for value in there.get("widgets_values", []) if value in values] == values
        if kind := comfyui.NODE_CLASS_MAPPINGS.get(node["class_type"]):
            inputs = kind.INPUT_TYPES()
            known = inputs["required"].keys() | inputs.get("optional", {}).keys()
            assert inputs["required"].keys() <= node["inputs"].keys() <= known
            assert {one["name"] for one in there["inputs"]} == known
    assert "VoicetoimgNoise" in {node["class_type"] for node in commands.values()}
