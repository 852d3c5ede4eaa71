"""Prompts with times."""

import numpy as np
import pytest

from film.cues import Cue, read_cues, time_text, weights_at


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (12.5, "0:12.5"), (59.9996, "1:00"), (70.03, "1:10.03"), (3723.25, "1:02:03.25")]
)
def test_times_are_written_as_they_are_read(seconds, text):
    assert time_text(seconds) == text
    if text != "0:00":
        assert read_cues(["0:00 a", f"{text} b"])[1].seconds == pytest.approx(seconds, abs=5e-4)


def test_times_and_prompts_are_read():
    lines = ["0:00 a golden spiral", "0:12.5   a blue butterfly", "1:02:03.25 waves 3:4"]
    cues = [Cue(0, "a golden spiral"), Cue(12.5, "a blue butterfly"), Cue(3723.25, "waves 3:4")]
    assert read_cues(lines) == cues


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["a golden spiral"], "'a golden spiral' does not begin with a time"),
        (["0:00 a", "12 b"], "'12 b' does not begin"),
        (["0:00 a", "0:60 b"], "'0:60 b' does not begin"),
        (["0:00 a", "1:60:00 b"], "'1:60:00 b' does not begin"),
        (["0:00 a", "-0:01 b"], "'-0:01 b' does not begin"),
        (["0:00 a", "0:01,5 b"], "'0:01,5 b' does not begin"),
        (["0:00 a", "0:01"], "'0:01' has no prompt"),
        (["0:00 a", "0:05 b", "0:05 c"], "'0:05 c' is not later"),
        (["0:01 a"], "must begin at 0:00"),
    ],
)
def test_a_wrong_line_is_quoted(lines, problem):
    with pytest.raises(ValueError, match=problem):
        read_cues(lines)


def test_a_prompt_comes_in_from_its_time_on():
    cues = [Cue(0, "a"), Cue(10, "b"), Cue(10.5, "c")]
    assert weights_at(cues, 0.0, 1.0) == [(0, 1.0)]
    assert weights_at(cues, 10.0, 1.0) == [(0, 1.0)]
    assert weights_at(cues, 10.25, 0.5) == [(1, 0.5), (0, 0.5)]
    assert weights_at(cues, 99.0, 1.0) == [(2, 1.0)]
    for time in (10.6, 10.9, 11.2):
        weights = dict(weights_at(cues, time, 1.0))
        assert sum(weights.values()) == pytest.approx(1) and 0 < weights[2] < 1
    assert len(weights_at(cues, 10.9, 1.0)) == 3
    assert [weights_at(cues, time, 0.0) for time in (9.99, 10.0, 10.5)] == [[(n, 1.0)] for n in range(3)]


def test_in_a_circle_the_first_prompt_comes_in_after_the_last_one():
    cues = [Cue(0, "a"), Cue(4, "b"), Cue(12, "never")]
    assert weights_at(cues, 0, 2, circle=10) == [(1, 1.0)]
    assert weights_at(cues, 0.5, 2, circle=10) == [(1, 0.75), (0, 0.25)]
    assert weights_at(cues, 2, 2, circle=10) == [(0, 1.0)]
    assert weights_at(cues, 9.9, 2, circle=10) == [(1, 1.0)]
    assert weights_at(cues, 0, 0, circle=10) == [(0, 1.0)]
    assert weights_at(cues[:1], 0.5, 2, circle=10) == [(0, 1.0)]
    for fade in (3, 30):  # 30: longer than the circle
        shares = np.array([[dict(weights_at(cues, time, fade, 10)).get(cue, 0) for cue in (0, 1)]
                           for time in np.arange(1000) / 100])  # fmt: skip
        assert shares.sum(axis=1) == pytest.approx(1)
        if fade < 10:
            assert np.abs(np.diff(np.concatenate([shares, shares[:1]]), axis=0)).max() < 0.01
