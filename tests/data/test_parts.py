"""Training images that are kept back, and those that are drawn."""

import pytest
import torch

from common.errors import ReportedError
from data.parts import draw, hold_out
from data.synthetic import Synthetic


@pytest.fixture(scope="module")
def whole():
    return Synthetic("train", 50, classes=10, channels=3, height=8, width=8)


def test_every_image_is_in_one_of_the_parts(whole):
    rest, held = hold_out(whole, 12)
    assert (len(rest), len(held)) == (38, 12)
    assert sorted([*rest.positions.tolist(), *held.positions.tolist()]) == list(range(50))
    assert (held.classes, held.channels, held.height, held.width) == (whole.classes, 3, 8, 8)


def test_the_choice_is_random_and_always_the_same(whole):
    held, again = (hold_out(whole, 12)[1].positions.tolist() for _ in range(2))
    assert held == again
    assert held not in (list(range(12)), list(range(38, 50)))


def test_a_part_reads_its_images_of_the_whole(whole):
    for part in hold_out(whole, 12):
        at = torch.tensor([3, 0, 3])
        for found, expected in zip(part.read(at), whole.read(part.positions[at]), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_parts_are_other_data_than_the_whole_and_than_each_other(whole):
    prints = [each.fingerprint() for each in (*hold_out(whole, 12), *hold_out(whole, 13), whole)]
    assert len(set(prints)) == 5


@pytest.mark.parametrize("count", [50, 51])
def test_some_must_be_left_to_train_on(whole, count):
    with pytest.raises(ReportedError, match="50 training images"):
        hold_out(whole, count)


def test_images_are_drawn_at_random_each_once_and_always_the_same(whole):
    some, again = (draw(whole, 20).positions.tolist() for _ in range(2))
    assert some == again
    assert len(set(some)) == 20
    assert some != list(range(20))
    assert draw(whole, 50).positions.tolist() == list(range(50))


def test_no_held_out_image_is_drawn(whole):
    rest, held = hold_out(whole, 12)
    some = draw(rest, 20)
    drawn = rest.positions[some.positions].tolist()
    assert not set(drawn) & set(held.positions.tolist())
    images, _ = some.read(torch.arange(20))
    assert torch.equal(images, whole.read(torch.tensor(drawn))[0])
    assert some.fingerprint() not in (rest.fingerprint(), draw(whole, 20).fingerprint())


def test_more_images_than_there_are_cannot_be_drawn(whole):
    with pytest.raises(ReportedError, match=r"data\.train_images is 51.* 50"):
        draw(whole, 51)
