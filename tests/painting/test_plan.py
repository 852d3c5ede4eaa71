"""Names of recordings in place of rows."""

from pathlib import Path

import pytest
import torch

import txt2img
from audio.provenance import save_latents
from cli import WrongOption
from painting.options import subjects
from painting.plan import rows_of

NAMES = ["ann.wav", "bob.wav", "same.wav", "same.wav", "Ann, Bob.wav", "", "dan.wav", "eve.wav"]
FILE = (Path("many.pt"), NAMES)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("all", None),
        ("0,3,5-7", [0, 3, 5, 6, 7]),
        ("bob.wav", [1]),
        ("in a folder/bob.wav", [1]),  # as in the table of the recordings
        ("bob.wav, 0,ann.wav", [1, 0, 0]),
        ("Ann, Bob.wav", [4]),
    ],
)
def test_rows_and_names(text, rows):
    assert rows_of(subjects(text), [FILE]) == rows


@pytest.mark.parametrize(
    ("text", "files", "message"),
    [
        (
            "carl.wav",
            [FILE],
            "carl.wav: many.pt holds no recording of this name; it holds ann.wav, bob.wav, .*, \\.\\.\\.$",
        ),
        ("same.wav", [FILE], "many.pt holds 2 recordings of this name; give one of the rows 2, 3"),
        ("ann.wav", [(Path("old.pt"), [""] * 3)], "old.pt holds no recording .*; it names none: give a row, 0 to 2"),
    ],
)
def test_names_that_mean_no_row_or_several(text, files, message):
    with pytest.raises(WrongOption, match=message):
        rows_of(subjects(text), files)


def test_names_for_several_files():
    other = (Path("other.pt"), ["bob.wav", "ann.wav"])
    assert rows_of(subjects("ann.wav"), [FILE, other]) == [0, 1]
    assert rows_of(subjects("ann.wav,bob.wav"), [FILE, other]) == [0, 0]
    assert rows_of(subjects("1"), [FILE, other]) == [1]


def test_an_image_of_a_name_is_that_of_its_row(tmp_path):
    save_latents(tmp_path / "two.pt", torch.randn(2, 4, 32, 32), None, ["ann.wav", "bob.wav"])
    arguments = ["--init_latents", str(tmp_path / "two.pt"), "--H", "64", "--W", "64", "--x_T", "auto", "--steps", "1"]
    specs = {}
    for which in ("1", "bob.wav"):
        args = txt2img.parse_options(None, [*arguments, "--subject_idx", which])
        specs[which], _ = txt2img.asked_for(args, torch.device("cpu"))
    assert specs["1"] == specs["bob.wav"]
