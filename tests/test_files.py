"""Names that are taken in a folder, and whether it can be written to."""

from pathlib import Path

import pytest

from files import alternatives, check_writable, reserve, reserved


def test_a_name_is_taken_once(tmp_path):
    names = [reserve(tmp_path / "new", alternatives("a.b.png")).name for _ in range(3)]
    assert names == ["a.b.png", "a.b_2.png", "a.b_3.png"]
    with pytest.raises(ValueError), reserved(tmp_path, alternatives("x")) as path:
        assert path.is_file()
        raise ValueError
    assert not path.exists()


def test_a_folder_that_can_be_made_can_be_written_to(tmp_path):
    assert check_writable(tmp_path / "new" / "folder") == tmp_path
    assert check_writable(tmp_path) == tmp_path and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["file/below", "/proc/nowhere"])
def test_an_error_names_the_folder_that_was_asked_for(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as refused:
        check_writable(tmp_path / folder)
    assert Path(refused.value.filename) == tmp_path / folder
