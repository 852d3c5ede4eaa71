"""Pictures on their way to a folder."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from painting.images import grid, save_numbered, to_uint8


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


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises((TypeError, ValueError)):
        save_numbered(np.zeros((8, 8, 7, 2), np.float64), tmp_path, "p")
    assert list(tmp_path.iterdir()) == []


def test_grid_goes_row_by_row_and_fills_up_with_black():
    pictures = [np.full((2, 3, 3), level, np.uint8) for level in (1, 2, 3)]
    sheet = grid(pictures, columns=2)
    assert sheet.shape == (4, 6, 3)
    np.testing.assert_array_equal(sheet[::2, ::3, 0], [[1, 2], [3, 0]])
