"""A loss that stays at that of guessing is noticed, once, and no other is."""

import logging
import math

import pytest

from recording.stuck import WINDOW, StuckLoss

GUESSING = math.log(10)


def _warnings(caplog, losses):
    watch = StuckLoss(classes=10)
    with caplog.at_level(logging.WARNING):
        for step, loss in enumerate(losses):
            watch.log(step, {"train/loss": loss})
            watch.log(step, {"test/loss": 0.0})
    return caplog.messages


def test_a_stuck_loss_is_told_once_with_ways_out(caplog):
    [message] = _warnings(caplog, [30.0] * WINDOW + [GUESSING * 1.004, GUESSING * 0.996] * WINDOW)
    assert "2.303" in message
    assert "data.std" in message


def test_one_class_is_guessed_right(caplog):
    watch = StuckLoss(classes=1)
    for step in range(2 * WINDOW):
        watch.log(step, {"train/loss": 0.0})
    assert not caplog.messages


@pytest.mark.parametrize(
    "losses",
    [
        [GUESSING * 0.97] * 3 * WINDOW,
        [GUESSING] * WINDOW + [1.0] * WINDOW,
        [GUESSING] * (2 * WINDOW - 1),
        [0.5] * 2 * WINDOW + [GUESSING] * 2 * WINDOW,
    ],
    ids=["learning slowly", "learning late", "a short run", "learnt"],
)
def test_no_other_loss_is_warned_of(caplog, losses):
    assert not _warnings(caplog, losses)
