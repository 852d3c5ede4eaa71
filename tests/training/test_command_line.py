"""The command line of training: wrong settings and missing files are named, help answers at once."""

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

import config
from tests.training.miniature import command, tiny_config
from training.__main__ import main


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda yaml: yaml.training.first_stage.pop("kl_weight"), "missing .*kl_weight"),
        (lambda yaml: yaml.training.diffusion.update(momentum=0.9), "momentum"),
        (lambda yaml: yaml.pop("training"), "the training: node must have the entries"),
        (lambda yaml: yaml.pop("model"), "describes no model"),
    ],
)
def test_a_yaml_that_says_too_little_or_too_much_is_told_so(change, message, tmp_path):
    yaml = tiny_config()
    change(yaml)
    OmegaConf.save(yaml, tmp_path / "tiny.yaml")
    with pytest.raises(ValueError, match=message):
        command("first_stage", tmp_path)


def test_words_come_first(tmp_path):
    OmegaConf.save(tiny_config(), tmp_path / "tiny.yaml")
    with pytest.raises(OSError, match=f"run python -m training words --dir {tmp_path} first"):
        command("first_stage", tmp_path)


def test_existing_word_vectors_are_kept(tmp_path, capsys):
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "vocab.txt").write_text("a\n")
    assert main(["words", "--dir", str(tmp_path)]) == 0
    assert "move the folder away" in capsys.readouterr().out
    assert (tmp_path / "words" / "vocab.txt").read_text() == "a\n"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["layers"], ["prior", "--out", "model"], ["words", "--config", "/x"]]
)
def test_the_command_line_answers_before_torch_is_imported(arguments):
    code = "import sys; from training.__main__ import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=config.REPO_DIR, capture_output=True, text=True)
    assert done.returncode == (0 if arguments == ["--help"] else 2), done.stderr
    assert "Traceback" not in done.stderr
