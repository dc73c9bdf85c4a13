"""The time to go: right once steps are finished, honest in the middle of a long one."""

import io

import pytest

from psr_lens.demo import time_to_go
from psr_lens.demo.time_to_go import TimeToGo, in_words, seconds_to_go

EXPECTED = {"sampling": 60.0, "fitting": 200.0, "answers": 40.0}


def test_before_anything_is_known_it_is_what_was_expected():
    assert seconds_to_go(EXPECTED, {}, None, 0.0) == pytest.approx(300)
    assert seconds_to_go(EXPECTED, {}, "sampling", 0.0) == pytest.approx(300)


def test_a_machine_at_half_the_speed_takes_twice_as_long():
    left = seconds_to_go(EXPECTED, {"sampling": 120.0}, "fitting", 0.0)
    assert left == pytest.approx(240 * (20 + 120) / (20 + 60))


def test_it_falls_second_by_second_within_a_step():
    first, later = (seconds_to_go(EXPECTED, {}, "sampling", passed) for passed in (10.0, 25.0))
    assert first - later == pytest.approx(15)


def test_a_step_that_takes_longer_than_expected_adds_nothing_negative():
    assert seconds_to_go(EXPECTED, {}, "sampling", 500.0) == pytest.approx(240)


def test_the_last_step_ends_at_zero():
    done = {"sampling": 60.0, "fitting": 200.0}
    assert seconds_to_go(EXPECTED, done, "answers", 40.0) == 0
    assert in_words(0.0) == "less than a minute"


def test_the_bar_says_step_and_time(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(time_to_go.sys, "stderr", screen)
    with TimeToGo(EXPECTED, shown=True) as clock:
        clock.begin("sampling")
        clock.begin("fitting")
        clock.begin("answers")
    shown = screen.getvalue()
    assert "about 5 min to go: sampling" in shown
    assert "100%" in shown


def test_an_interrupt_closes_it_and_passes():
    def interrupted():
        with TimeToGo(EXPECTED, shown=False) as clock:
            clock.begin("sampling")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
