"""The frames of a film as a painter gets them."""

import numpy as np
import pytest

from film.scenario import abruptness
from painting.image_spec import ImageSpec
from painting.painter import Transition


def test_an_image_changes_fastest_where_the_larger_share_is_two_thirds():
    def at(share: float) -> float:
        return abruptness(Transition((ImageSpec(),), (1.0,), np.array([1 - share, 0, share], np.float32)))

    assert abruptness(Transition((ImageSpec(),), (1.0,))) == 1
    assert at(1.0) == pytest.approx(1, abs=0.001) and at(0.35) == pytest.approx(at(0.65))
    assert max((0.5, 0.55, 0.65, 0.75, 0.85, 1.0), key=at) == 0.65
