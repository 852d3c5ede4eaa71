"""The drawing code and the captions: determinism, resolution, visible colours, allowed words."""

import itertools
import re
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from ldm.modules import grids
from training.scenes.__main__ import main
from training.scenes.augment import colour_mask, random_grid, warp
from training.scenes.captions import COLOUR_WORDS, HELD_OUT_SYNONYMS, MOOD_WORDS, caption, vocabulary
from training.scenes.palette import COLOURS as COLOUR_VALUES
from training.scenes.render import contact_sheet, render
from training.scenes.scenes import (
    COLOURS,
    COMPOSITIONS,
    FIGURES,
    MOODS,
    PATTERNS,
    SHAPE_ATTRIBUTES,
    VARIANTS,
    Scene,
    attribute_values,
    recoloured,
    sample_scene,
)

NAMES = tuple(COLOUR_VALUES)
NAMES_LAB = cv2.cvtColor(np.array([list(COLOUR_VALUES.values())], np.float32) / 255, cv2.COLOR_RGB2LAB)[0]


def _shares(image: np.ndarray, names: tuple[str, ...]) -> list[float]:
    """Compute the share of pixels that are nearest to, or within 26 (CIE 1976) of, each named colour."""
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    distance = np.linalg.norm(lab[:, None] - NAMES_LAB, axis=2)
    nearest = distance.argmin(axis=1)
    indices = [NAMES.index(name) for name in names]
    return [float(((nearest == i) | (distance[:, i] < 26)).mean()) for i in indices]


def _scenes_with(count: int, figure_share: float = 0.3, **attributes: str) -> list[Scene]:
    """Find the first scenes whose attributes have the given values."""
    scenes = (sample_scene(seed, figure_share=figure_share) for seed in itertools.count())
    found = (scene for scene in scenes if all(getattr(scene, name) == value for name, value in attributes.items()))
    return list(itertools.islice(found, count))


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def test_constants_are_rich() -> None:
    assert len(PATTERNS) >= 24 and len(FIGURES) >= 18 and len(COLOURS) >= 20
    assert len(MOODS) >= 8 and len(COMPOSITIONS) >= 5


def test_same_seed_same_bytes() -> None:
    for seed in range(12):
        scene = sample_scene(seed)
        assert scene == sample_scene(seed)
        assert np.array_equal(render(scene, 64), render(sample_scene(seed), 64))


@pytest.mark.slow
def test_same_seed_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib; from training.scenes.render import render; from training.scenes.scenes import sample_scene;"
        "print(hashlib.sha256(b''.join(render(sample_scene(s), 48).tobytes() for s in range(8))).hexdigest())"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout


def test_render_is_rgb_bytes_of_the_size() -> None:
    image = render(sample_scene(3), 50)
    assert image.shape == (50, 50, 3) and image.dtype == np.uint8


@pytest.mark.slow
def test_resolutions_agree() -> None:
    errors = []
    for seed in range(60):
        scene = sample_scene(seed)
        small = render(scene, 128).astype(np.float32)
        large = cv2.resize(render(scene, 256), (128, 128), interpolation=cv2.INTER_AREA).astype(np.float32)
        errors.append(np.abs(small - large).mean() / 255)
    assert np.mean(errors) < 0.02
    assert np.max(errors) < 0.07


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_has_structure_and_varies(pattern: str) -> None:
    scenes = _scenes_with(4, figure_share=0, pattern=pattern)
    renders = [render(scene, 48).astype(np.float32) for scene in scenes]
    assert all(image.std(axis=(0, 1)).max() > 10 for image in renders)
    assert all(np.abs(a - b).mean() > 8 for a, b in itertools.pairwise(renders))


def test_a_pattern_has_few_shapes_and_many_looks() -> None:
    def greys(seed: int) -> np.ndarray:
        scene = Scene(seed=seed, pattern="spiral", colours=("black", "white"), mood="sharp")
        return render(scene, 48, canonical=True).astype(np.float32).mean(axis=2)

    alike = [np.corrcoef(greys(s).ravel(), greys(s + VARIANTS).ravel())[0, 1] for s in range(VARIANTS)]
    other = [np.corrcoef(greys(s).ravel(), greys(s + 1).ravel())[0, 1] for s in range(VARIANTS)]
    assert min(alike) > 0.9 and max(other) < 0.6
    assert not np.array_equal(greys(0), greys(VARIANTS))


def test_each_render_is_a_crop_of_the_canonical_one() -> None:
    for seed in range(8):
        scene = sample_scene(seed)
        expected = warp(render(scene, 256, canonical=True), random_grid(seed, 128)).ravel()
        as_seen, whole = render(scene, 128).ravel(), render(scene, 128, canonical=True).ravel()
        assert np.corrcoef(as_seen, expected)[0, 1] > max(0.8, np.corrcoef(as_seen, whole)[0, 1] + 0.05)


def test_random_grids_zoom_mirror_and_bend() -> None:
    views = np.stack([random_grid(seed, 32) for seed in range(200)])
    assert views.shape == (200, 32, 32, 2) and views.dtype == np.float32
    assert np.abs(views).max() < 1.3  # hardly over the edge
    right, down = np.diff(views[..., 0], axis=2).mean(axis=(1, 2)), np.diff(views[..., 1], axis=1).mean(axis=(1, 2))
    assert 70 < (right < 0).sum() < 130 and (down > 0).all()
    zoom = 2 / 32 / np.abs(right)
    assert 0.85 < zoom.min() < 1.1 and 1.3 < zoom.max() < 1.6  # 1 to 1.4, give and take the bending
    straight = np.linspace(views[:, :, :1], views[:, :, -1:], 32, axis=2).squeeze(3)
    assert 0.005 < np.abs(views - straight).mean() < 0.05
    assert np.array_equal(random_grid(7, 32), views[7])


def test_drifting_colours_are_two_sets_on_the_same_shapes() -> None:
    for seed in range(12):
        scene = sample_scene(seed)
        other = recoloured(scene)
        assert other != scene and replace(other, colours=scene.colours) == scene
        assert len(other.colours) == len(scene.colours)
        drawn = [render(s, 64, canonical=True).astype(float) for s in (scene, other)]
        drifting = render(scene, 64, canonical=True, drifting=True)
        share = colour_mask(seed, 64)[..., None]
        assert np.abs(drifting - (drawn[0] * (1 - share) + drawn[1] * share)).max() < 1
        expected = warp(render(scene, 256, canonical=True, drifting=True), random_grid(seed, 128)).ravel()
        assert np.corrcoef(render(scene, 128, drifting=True).ravel(), expected)[0, 1] > 0.8


def test_other_colours_are_as_many_and_never_the_same() -> None:
    for seed in range(3000):
        colours, others = sample_scene(seed).colours, recoloured(sample_scene(seed)).colours
        assert len(colours) == len(others) and {*colours} != {*others}


def test_no_mood_stands_before_an_article() -> None:
    rng = np.random.default_rng(0)
    moods = "|".join(word for words in MOOD_WORDS.values() for word in words)
    captions = [caption(sample_scene(seed), rng, colourless=True) for seed in range(6000)]
    assert any(text.endswith("the picture of a voice") for text in captions)
    assert not [text for text in captions if re.search(rf"\b({moods}) (a|an|the)\b", text)]


def test_a_colour_mask_is_linear_between_knots() -> None:
    drifts = np.stack([colour_mask(seed, 31) for seed in range(200)])
    knots = drifts[:, ::10, ::10]
    assert drifts.min() == 0 and drifts.max() == 1
    assert abs((knots == 0).mean() - 1 / 3) < 0.05 and abs((knots == 1).mean() - 1 / 3) < 0.05
    np.testing.assert_allclose(drifts[:, 5, 10], (knots[:, 0, 1] + knots[:, 1, 1]) / 2, atol=1e-6)


def test_a_grid_is_the_same_at_every_size() -> None:
    small = random_grid(3, 32)
    averaged = random_grid(3, 128).reshape(32, 4, 32, 4, 2).mean(axis=(1, 3))
    assert np.abs(small - averaged)[1:-1, 1:-1].max() < 0.005


def test_warp_samples_where_the_grid_says() -> None:
    """Warp an image of its own coordinates, here and with torch's grid_sample."""
    axis = ((np.arange(64) + 0.5) / 32 - 1).astype(np.float32)
    picture = np.stack(np.meshgrid(axis, axis), axis=2)
    coordinates = random_grid(1, 32)
    inside = np.abs(coordinates).max(axis=2) < 0.95
    here = warp(picture, coordinates)
    assert np.abs(here - coordinates)[inside].max() < 3e-3
    sampled = grids.warp(torch.from_numpy(picture.transpose(2, 0, 1)[None]), torch.from_numpy(coordinates[None]))
    assert np.abs(sampled[0].numpy().transpose(1, 2, 0) - here)[inside].max() < 3e-3


def test_attributes_are_numbered_by_their_values() -> None:
    plain = attribute_values(Scene(seed=0, pattern="spiral", colours=("red", "gold")))
    assert plain == [PATTERNS.index("spiral"), 0, 0, 0, 0, 0, 0, 0, *map(COLOURS.index, ("red", "gold")), len(COLOURS)]
    for seed in range(50):
        scene = sample_scene(seed)
        *shapes, first, second, third = attribute_values(scene)
        told = [values[i] for values, i in zip(SHAPE_ATTRIBUTES.values(), shapes, strict=True)]
        assert told == [getattr(scene, name) for name in SHAPE_ATTRIBUTES]
        assert tuple((*COLOURS, None)[i] for i in (first, second, third)) == (*scene.colours, None)[:3]


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_stands_out(figure: str) -> None:
    for scene in _scenes_with(3, figure_share=1, figure=figure):
        bare = Scene(**{**scene.__dict__, "figure": None})
        drawn = render(scene, 48).astype(np.float32)
        assert drawn.std(axis=(0, 1)).max() > 10
        assert np.abs(drawn - render(bare, 48)).mean() > 8


def test_every_mood_and_composition_changes_the_render() -> None:
    for pattern in ("cells", "waves"):
        plain = Scene(seed=5, pattern=pattern, colours=("red", "navy"))
        for mood in set(MOODS) - {"warm", "cool"}:
            assert np.abs(render(plain, 48) / 1.0 - render(Scene(**{**plain.__dict__, "mood": mood}), 48)).mean() > 1.5
        for composition in COMPOSITIONS:
            other = Scene(**{**plain.__dict__, "composition": composition})
            assert np.abs(render(plain, 48) / 1.0 - render(other, 48)).mean() > 1.5


def test_warm_and_cool_choose_the_colours() -> None:
    warm, cool = ({c for scene in _scenes_with(40, mood=mood) for c in scene.colours} for mood in ("warm", "cool"))
    assert not warm & {"blue", "cyan", "green", "navy"}
    assert not cool & {"red", "orange", "yellow"}


@pytest.mark.slow
def test_named_colours_are_visible() -> None:
    missing = []
    for seed in range(200):
        scene = sample_scene(seed)
        if min(_shares(render(scene, 64), scene.colours[:2])) < 0.08:
            missing.append(scene)
    assert len(missing) <= 10, missing


def test_colours_are_apart() -> None:
    distance = np.linalg.norm(NAMES_LAB[:, None] - NAMES_LAB, axis=2)
    assert distance[np.triu_indices(len(NAMES), 1)].min() > 18


@pytest.mark.parametrize("family", ["mandala", "kaleidoscope", "spiral"])
def test_radial_families_have_the_symmetry_of_a_half_turn_or_more(family: str) -> None:
    """Among a few seeds some field has an even number of arms, and then it equals itself turned by half a circle."""
    from training.scenes.fields import make_grid
    from training.scenes.patterns import PATTERN_FAMILIES

    errors = []
    for seed in range(10):
        field = PATTERN_FAMILIES[family].field(make_grid(64), np.random.default_rng(seed))
        errors.append(float(np.abs(field - field[::-1, ::-1]).mean()))
    assert min(errors) < 0.01


def test_captions_keep_to_the_vocabulary() -> None:
    known, seen = set(vocabulary()), set()
    for seed in range(3000):
        text = caption(sample_scene(seed), np.random.default_rng(seed))
        words = _words(text)
        assert text.isascii() and text == text.lower() and 1 <= len(words) <= 20
        assert set(words) <= known, set(words) - known
        assert text.replace(",", "").replace(" ", "").isalpha()
        seen.add(text)
    assert len(seen) > 2500


def test_held_out_words_are_held_out() -> None:
    assert len(HELD_OUT_SYNONYMS) >= 20
    assert not set(HELD_OUT_SYNONYMS) & set(vocabulary())
    assert set(HELD_OUT_SYNONYMS.values()) <= {*COLOURS, *PATTERNS, *FIGURES}


def test_vocabulary_is_sorted_and_unique() -> None:
    words = vocabulary()
    assert words == sorted(set(words)) and len(words) > 200


def test_captions_may_leave_out_colours() -> None:
    colours = {word for words in COLOUR_WORDS.values() for phrase in words for word in phrase.split()}
    texts = [caption(sample_scene(seed), np.random.default_rng(seed), colourless=True) for seed in range(300)]
    assert len(set(texts)) > 200
    assert set(re.findall("[a-z]+", " ".join(texts))) <= set(vocabulary())
    looks = {"dark", "bright", "light", "neon"}  # are moods, or patterns, as well
    assert not (colours - looks) & {word for text in texts for word in re.findall("[a-z]+", text)}


def test_captions_of_one_scene_vary_and_name_what_it_shows() -> None:
    scene = Scene(seed=1, pattern="waves", colours=("red", "gold"), figure="heart")
    texts = [caption(scene, np.random.default_rng(i)) for i in range(200)]
    assert len(set(texts)) > 100
    assert sum("heart" in text for text in texts) > 150


def test_a_size_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="size"):
        render(sample_scene(0), 8)


def test_contact_sheet_and_command(tmp_path, capsys) -> None:
    assert contact_sheet([sample_scene(i) for i in range(3)], size=32, columns=2).shape == (76, 76, 3)
    out = tmp_path / "sheet.png"
    arguments = ["--sheet", str(out), "--count", "3", "--size", "32"]
    assert main(arguments) == 0
    assert out.stat().st_size > 0 and len(capsys.readouterr().out.splitlines()) == 3
    with pytest.raises(FileExistsError, match=r"sheet\.png exists"):
        main(arguments)
