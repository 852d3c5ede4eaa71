"""The shapes of a film: none changes back and forth, and each passes into the next."""

import itertools

import numpy as np

from film.shapes import RATE, passing, steady


def test_the_chosen_shapes_have_the_highest_sum():
    """All ways to choose are tried."""
    scores = np.random.default_rng(0).normal(size=(6, 3))
    for change in (0.0, 0.7, 2.0, 100.0):

        def value(chosen: np.ndarray, change: float = change) -> float:
            return scores[np.arange(6), chosen].sum() - change * (np.diff(chosen) != 0).sum()

        best = max(value(np.array(each)) for each in itertools.product(range(3), repeat=6))
        assert np.isclose(value(steady(scores, change)), best)


def test_a_shape_that_is_better_for_a_moment_is_not_worth_a_change():
    scores = np.zeros((40, 2))
    scores[:, 0], scores[20, 1] = 1, 3
    assert steady(scores).tolist() == [0] * 40
    scores[20:, 1] = 3
    assert steady(scores).tolist() == [0] * 20 + [1] * 20


def test_shapes_pass_into_each_other():
    chosen, moments = np.array([0] * 10 + [2] * 10), np.arange(20) / RATE
    change = 9.5 / RATE  # between the last moment of one and the first of the other
    shares = np.stack([passing(chosen, moments, moment, 1.0, 4) for moment in np.linspace(0, moments[-1], 200)])
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
    assert (np.diff(shares[:, 2]) >= 0).all() and shares[0].tolist() == [1, 0, 0, 0] and shares[-1][2] == 1
    np.testing.assert_allclose(passing(chosen, moments, change, 1.0, 4), [0.5, 0, 0.5, 0], atol=1e-6)
    assert passing(chosen, moments, change - 0.51, 1.0, 4)[0] == 1
    assert passing(chosen, moments, change + 0.51, 1.0, 4)[2] == 1
    assert np.abs(np.diff(shares, axis=0)).max() < 0.05
