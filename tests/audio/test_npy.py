"""Matrices on disk, in either order, read slice by slice."""

import numpy as np
import pytest

from audio.npy import NpyReader, load_array


@pytest.mark.parametrize("order", ["C", "F"])
def test_slices_are_those_of_the_array(tmp_path, order):
    rows = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    np.save(tmp_path / "m.npy", np.asarray(rows, order=order))
    on_disk = NpyReader(tmp_path / "m.npy", 7)
    for part in (slice(0, 50), slice(3, 20), slice(48, 60), slice(10, 10), slice(20, 10)):
        assert np.array_equal(on_disk[part], rows[part])


def test_what_is_no_npy_file_is_refused(tmp_path):
    np.savez(tmp_path / "m.npy", rows=np.zeros((2, 2)))
    (tmp_path / "m.npy.npz").rename(tmp_path / "m.npy")
    with pytest.raises(ValueError, match="zip archive"):
        load_array(tmp_path / "m.npy", (None, 2))
    with pytest.raises(FileNotFoundError):
        load_array(tmp_path / "nowhere.npy", (None, 2))
