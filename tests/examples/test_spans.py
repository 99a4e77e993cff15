"""What is under way in a step, and what of it is waited for."""

from examples.spans import Span, Step, covered


def test_overlapping_spans_count_once():
    spans = [Span("a", 5.0, 7.0), Span("b", 0.0, 3.0), Span("c", 2.0, 4.0), Span("d", 5.5, 6.0)]
    assert covered(spans) == 6.0


def test_messages_are_exposed_while_the_rank_waits():
    parts = [
        Span("forward", 0.0, 10.0),
        Span("activation_communication", 10.0, 12.0),
        Span("backward", 12.0, 20.0),
        Span("gradient_communication", 20.0, 21.0),
    ]
    step = Step(parts, [Span("gloo:all_gather", 8.0, 11.0), Span("gloo:all_reduce", 13.0, 25.0)])
    assert step.exposed == [
        Span("gloo:all_gather", 10.0, 11.0),
        Span("gloo:all_reduce", 20.0, 21.0),
    ]
