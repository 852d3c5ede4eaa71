"""Frames on disk: whatever ends a run, the next one has each finished batch, and paints no other."""

import numpy as np
import pytest
from PIL import Image

from film.frames import JOURNAL, FrameStore


def frames_of(numbers: range) -> np.ndarray:
    return np.stack([np.random.default_rng(number).integers(0, 256, (8, 6, 3), np.uint8) for number in numbers])


def open_store(folder, identity: str = "one", count: int = 10, batch_size: int = 4) -> FrameStore:
    return FrameStore(folder, "song", identity, count, batch_size)


def test_frames_come_back_in_order_and_without_loss(tmp_path):
    store = open_store(tmp_path)
    for number in (2, 0, 1):
        store.add(number, frames_of(store.batch(number)))
    assert [len(store.batch(number)) for number in range(store.batches)] == [4, 4, 2] and not store.missing
    np.testing.assert_array_equal(np.stack(list(store.frames())), frames_of(range(10)))
    store.remove()
    assert not list(tmp_path.iterdir())


def test_a_batch_may_be_larger_than_any_image_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    store = open_store(tmp_path, count=4)
    store.add(0, frames_of(range(4)))
    np.testing.assert_array_equal(np.stack(list(store.frames())), frames_of(range(4)))


def test_a_run_goes_on_where_the_last_one_ended(tmp_path):
    store = open_store(tmp_path)
    store.add(1, frames_of(store.batch(1)))
    store.close()
    again = open_store(tmp_path)
    assert again.missing == [0, 2]
    again.close()


@pytest.mark.parametrize("damage", ["cut", "zeros", "gone", "no line", "half a line", "wrong line"])
def test_what_a_power_cut_damaged_is_painted_again(tmp_path, damage):
    store = open_store(tmp_path)
    for number in (0, 1):
        store.add(number, frames_of(store.batch(number)))
    store.close()
    image, journal = store.folder / "000001.png", store.folder / JOURNAL
    lines = journal.read_text().splitlines(keepends=True)
    if damage == "cut":
        image.write_bytes(image.read_bytes()[:-20])
    elif damage == "zeros":
        image.write_bytes(bytes(image.stat().st_size))
    elif damage == "gone":
        image.unlink()
    else:
        rest = {"no line": "", "half a line": lines[1][:20], "wrong line": '{"a": 1}\n[7, "x"]\n'}[damage]
        journal.write_text(lines[0] + rest)
    again = open_store(tmp_path)
    assert again.missing == [1, 2]
    for number in again.missing:
        again.add(number, frames_of(again.batch(number)))
    again.close()
    whole = open_store(tmp_path)
    assert not whole.missing
    np.testing.assert_array_equal(np.stack(list(whole.frames())), frames_of(range(10)))
    whole.close()


def test_frames_of_two_films_never_mix(tmp_path):
    store = open_store(tmp_path)
    store.add(0, frames_of(store.batch(0)))
    others = [open_store(tmp_path, "two"), open_store(tmp_path, count=11), open_store(tmp_path, batch_size=2)]
    assert all(len(other.missing) == other.batches for other in others)
    with pytest.raises(OSError, match="another process makes this film"):
        open_store(tmp_path)
    for one in (store, *others):
        one.close()
