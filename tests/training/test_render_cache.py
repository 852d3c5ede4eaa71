"""Renders by the thousand: the same as one by one, and made once."""

import numpy as np
import pytest

from training.scenes import render_cache
from training.scenes.render import render
from training.scenes.scenes import attribute_values, sample_scene

FIRST = 77


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch):
    monkeypatch.setattr(pools, "CHUNK", 4)


def test_halving_takes_the_mean_of_four_pixels():
    picture = np.array([[0, 10, 255, 255], [20, 31, 255, 255]], np.uint8)[..., None].repeat(3, axis=-1)
    assert render_cache.halved(picture).tolist() == [[[15] * 3, [255] * 3]]


def test_renders_are_those_of_the_scenes_in_order():
    pictures = np.concatenate(list(render_cache.rendered(FIRST, 6, 16)))
    np.testing.assert_array_equal(pictures, [render(sample_scene(seed), 16) for seed in range(FIRST, FIRST + 6)])


def test_whole_renders_are_drawn_twice_as_large():
    (picture,) = next(render_cache.rendered(FIRST, 1, 16, "whole"))
    np.testing.assert_array_equal(picture, render_cache.halved(render(sample_scene(FIRST), 32, whole=True)))


def test_drifting_renders_have_the_shapes_in_two_sets_of_colours():
    (drifting,) = next(render_cache.rendered(FIRST, 1, 64, "drifting"))
    np.testing.assert_array_equal(drifting, render(sample_scene(FIRST), 64, drifting=True))
    assert np.abs(drifting.astype(int) - render(sample_scene(FIRST), 64)).mean() > 5


def test_a_pool_is_made_once_and_read_from_disk(tmp_path, monkeypatch):
    made = np.array(render_cache.pool(tmp_path, FIRST, 6, 16))
    np.testing.assert_array_equal(made, np.concatenate(list(render_cache.rendered(FIRST, 6, 16))))
    monkeypatch.setattr(pools, "rendered", None)  # nothing is rendered any more
    np.testing.assert_array_equal(render_cache.pool(tmp_path, FIRST, 6, 16), made)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_pool_of_other_drawing_code_is_another(tmp_path, monkeypatch):
    render_cache.pool(tmp_path, FIRST, 1, 16)
    monkeypatch.setattr(pools, "drawn", lambda seed, size, kind: np.zeros((size, size, 3), np.uint8))
    monkeypatch.setattr(pools, "rendered", lambda *arguments: iter([np.ones((1, 16, 16, 3), np.uint8)]))
    assert render_cache.pool(tmp_path, FIRST, 1, 16).max() == 1 and len(list(tmp_path.iterdir())) == 2


def test_an_interrupted_pool_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*arguments):
        yield np.zeros((4, 16, 16, 3), np.uint8)
        raise KeyboardInterrupt

    monkeypatch.setattr(pools, "rendered", interrupted)
    with pytest.raises(KeyboardInterrupt):
        render_cache.pool(tmp_path, FIRST, 6, 16)
    assert not list(tmp_path.iterdir())


def test_what_is_told_of_scenes_is_theirs():
    values, variants = render_cache.told(FIRST, 5)
    scenes = [sample_scene(seed) for seed in range(FIRST, FIRST + 5)]
    np.testing.assert_array_equal(values, [attribute_values(scene) for scene in scenes])
    assert variants.tolist() == [scene.variant for scene in scenes]
