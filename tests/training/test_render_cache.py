"""Many renders: equal to single ones, and drawn once."""

import numpy as np
import pytest

from training.scenes import render_cache
from training.scenes.render import render
from training.scenes.scenes import attribute_values, sample_scene

FIRST = 77


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch):
    monkeypatch.setattr(render_cache, "CHUNK", 4)


def test_halving_takes_the_mean_of_four_pixels():
    image = np.array([[0, 10, 255, 255], [20, 31, 255, 255]], np.uint8)[..., None].repeat(3, axis=-1)
    assert render_cache.halve(image).tolist() == [[[15] * 3, [255] * 3]]


def test_renders_are_those_of_the_scenes_in_order():
    renders = np.concatenate(list(render_cache.render_chunks(FIRST, 6, 16)))
    np.testing.assert_array_equal(renders, [render(sample_scene(seed), 16) for seed in range(FIRST, FIRST + 6)])


def test_canonical_renders_are_drawn_twice_as_large():
    (image,) = next(render_cache.render_chunks(FIRST, 1, 16, "canonical"))
    np.testing.assert_array_equal(image, render_cache.halve(render(sample_scene(FIRST), 32, canonical=True)))


def test_drifting_renders_have_the_shapes_in_two_sets_of_colours():
    (drifting,) = next(render_cache.render_chunks(FIRST, 1, 64, "drifting"))
    np.testing.assert_array_equal(drifting, render(sample_scene(FIRST), 64, drifting=True))
    assert np.abs(drifting.astype(int) - render(sample_scene(FIRST), 64)).mean() > 5


def test_renders_are_drawn_once_and_read_from_disk(tmp_path, monkeypatch):
    made = np.array(render_cache.cached_renders(tmp_path, FIRST, 6, 16))
    np.testing.assert_array_equal(made, np.concatenate(list(render_cache.render_chunks(FIRST, 6, 16))))
    monkeypatch.setattr(render_cache, "render_chunks", None)  # fails if anything is drawn
    np.testing.assert_array_equal(render_cache.cached_renders(tmp_path, FIRST, 6, 16), made)
    assert len(list(tmp_path.iterdir())) == 1


def test_other_drawing_code_makes_another_file(tmp_path, monkeypatch):
    render_cache.cached_renders(tmp_path, FIRST, 1, 16)
    monkeypatch.setattr(render_cache, "render_kind", lambda scene, size, kind: np.zeros((size, size, 3), np.uint8))
    monkeypatch.setattr(render_cache, "render_chunks", lambda *arguments: iter([np.ones((1, 16, 16, 3), np.uint8)]))
    assert render_cache.cached_renders(tmp_path, FIRST, 1, 16).max() == 1 and len(list(tmp_path.iterdir())) == 2


def test_an_interruption_leaves_no_file(tmp_path, monkeypatch):
    def interrupted(*arguments):
        yield np.zeros((4, 16, 16, 3), np.uint8)
        raise KeyboardInterrupt

    monkeypatch.setattr(render_cache, "render_chunks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        render_cache.cached_renders(tmp_path, FIRST, 6, 16)
    assert not list(tmp_path.iterdir())


def test_labels_are_those_of_the_scenes():
    values, variants = render_cache.scene_labels(FIRST, 5)
    scenes = [sample_scene(seed) for seed in range(FIRST, FIRST + 5)]
    np.testing.assert_array_equal(values, [attribute_values(scene) for scene in scenes])
    assert variants.tolist() == [scene.variant for scene in scenes]


def test_scenes_may_come_from_another_function():
    (image,) = next(render_cache.render_chunks(FIRST, 1, 16, scene_of=lambda seed: sample_scene(seed + 1)))
    np.testing.assert_array_equal(image, render(sample_scene(FIRST + 1), 16))
