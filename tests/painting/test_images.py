"""Pictures on their way to a folder."""

import os
import threading

import numpy as np
import pytest
import torch
from PIL import Image

import files
from painting import images
from painting.images import grid, save_grids, save_numbered, to_uint8


def test_to_uint8_clips_and_rounds():
    x = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]).expand(1, 3, 1, 5)
    np.testing.assert_array_equal(to_uint8(x)[0, 0, :, 0], [0, 0, 128, 255, 255])
    assert to_uint8(torch.zeros(2, 3, 8, 16)).shape == (2, 8, 16, 3)


def test_many_writers_never_share_a_name(tmp_path):
    pictures = [np.full((8, 8, 3), level, np.uint8) for level in range(12)]
    threads = [threading.Thread(target=save_numbered, args=(picture, tmp_path, "p")) for picture in pictures]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = sorted(tmp_path.iterdir())
    assert [path.name for path in written] == [f"p_{i:04d}.png" for i in range(12)]
    assert sorted(int(np.asarray(Image.open(path))[0, 0, 0]) for path in written) == list(range(12))


def test_many_images_in_a_folder_are_not_tried_name_by_name(tmp_path, monkeypatch):
    for number in range(500):
        (tmp_path / f"p_{number:04d}.png").touch()
    opened: list[str] = []
    real = os.open

    def counting(path: str, *how: int) -> int:
        opened.append(str(path))
        return real(path, *how)

    monkeypatch.setattr(files.os, "open", counting)
    image = np.zeros((8, 8, 3), np.uint8)
    assert [save_numbered(image, tmp_path, "p").name for _ in range(3)] == ["p_0500.png", "p_0501.png", "p_0502.png"]
    assert len([path for path in opened if path.startswith(str(tmp_path))]) == 3
    for path in tmp_path.iterdir():
        path.unlink()
    assert save_numbered(image, tmp_path, "p").name == "p_0000.png"
    (tmp_path / "p_0001.png").touch()  # by another program
    assert save_numbered(image, tmp_path, "p").name == "p_0002.png"


def test_a_gap_is_filled_first(tmp_path):
    for number in (0, 1, 3, 10_000):
        (tmp_path / f"p_{number:04d}.png").touch()
    names = [save_numbered(np.zeros((8, 8, 3), np.uint8), tmp_path, "p").name for _ in range(3)]
    assert names == ["p_0002.png", "p_0004.png", "p_0005.png"]


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (2, [(16, 4)]),
        (9, [(24, 12)]),
        (10, [(24, 8), (24, 8)]),
        (28, [(24, 12)] * 4),
    ],
)
def test_overviews_have_pages_of_a_size_that_can_be_opened(tmp_path, monkeypatch, count, sizes):
    monkeypatch.setattr(images, "PAGE", 9 * 8 * 4)
    paths = [save_numbered(np.full((4, 8, 3), level + 1, np.uint8), tmp_path, "p") for level in range(count)]
    pages = [Image.open(path) for path in save_grids(paths, tmp_path / "out")]
    assert [page.size for page in pages] == sizes
    shown = [
        np.asarray(page)[y, x, 0] for page in pages for y in range(0, page.height, 4) for x in range(0, page.width, 8)
    ]
    assert [level for level in shown if level] == list(range(1, count + 1))


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises((TypeError, ValueError)):
        save_numbered(np.zeros((8, 8, 7, 2), np.float64), tmp_path, "p")
    assert list(tmp_path.iterdir()) == []


def test_grid_goes_row_by_row_and_fills_up_with_black():
    pictures = [np.full((2, 3, 3), level, np.uint8) for level in (1, 2, 3)]
    sheet = grid(pictures, columns=2)
    assert sheet.shape == (4, 6, 3)
    np.testing.assert_array_equal(sheet[::2, ::3, 0], [[1, 2], [3, 0]])
