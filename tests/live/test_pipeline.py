"""How a budget of seconds becomes steps."""

import pytest

from live.pipeline import Speed


def test_steps_follow_the_speed():
    speed = Speed(fixed=0.5, a_step=0.1)
    assert speed.steps_within(2.0) == 13  # 1.9 s are planned for
    assert speed.steps_within(0.1) == 1 and speed.steps_within(100) == 50
    speed.learn(10, 3.0)  # twice as slow as it was
    assert speed.seconds_for(10) == pytest.approx(3.0) and speed.steps_within(2.0) == 4
