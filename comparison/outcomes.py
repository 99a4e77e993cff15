"""The outcomes of trainings, by set and by form of the net, and how far apart forms are."""

from collections.abc import Iterable
from statistics import mean, stdev
from typing import Any

from comparison.forms import FORMS
from comparison.statistics import paired_difference

Outcomes = list[dict[str, Any]]

THRESHOLD = 0.2
"""Training error to compare at; figure 1 of the paper uses 25 % on CIFAR-10, which is harder."""


def by_set(outcomes: Outcomes, names: Iterable[str]) -> dict[str, Outcomes]:
    """The outcomes of the forms in each set of ``FORMS`` that is named."""
    return {name: [each for each in outcomes if each["form"] in FORMS[name]] for name in names}


def by_form(outcomes: Outcomes) -> dict[str, Outcomes]:
    """The outcomes of each form, one for each seed."""
    forms: dict[str, Outcomes] = {}
    for outcome in outcomes:
        forms.setdefault(outcome["form"], []).append(outcome)
    return forms


def points_to_first(outcomes: Outcomes) -> dict[str, list[float]]:
    """The test accuracy of each form but the first less that of the first, in points, by seed."""
    first, *others = by_form(outcomes).values()
    seeds = {each["seed"]: each["test_top1"] for each in first}
    return {
        own[0]["form"]: [100 * (each["test_top1"] - seeds[each["seed"]]) for each in own]
        for own in others
    }


def rows_of(outcomes: Outcomes) -> list[dict[str, Any]]:
    """A row for each form: means over its seeds, and the difference to the first form."""
    forms = by_form(outcomes)
    first = next(iter(forms.values()))
    return [_row(form, own, first) for form, own in forms.items()]


def _row(form: str, own: Outcomes, first: Outcomes) -> dict[str, Any]:
    accuracy = [each["test_top1"] for each in own]
    apart = paired_difference(accuracy, [each["test_top1"] for each in first])
    return {
        "form": form,
        "parameters": own[0]["parameters"],
        "learning_rate": own[0]["learning_rate"],
        "images": own[0]["images"],
        "images_per_second": mean(each["images"] / each["seconds"] for each in own),
        "train_error": mean(each["train_error"] for each in own),
        "test_top1": mean(accuracy),
        "test_top1_std": stdev(accuracy) if len(accuracy) > 1 else None,
        "seeds": len(own),
        "difference": apart and apart.mean,
        "difference_low": apart and apart.low,
        "difference_high": apart and apart.high,
        "p": apart and apart.p,
    }


def reached(outcome: dict[str, Any]) -> dict[str, Any] | None:
    """The first point of a training whose error is at most ``THRESHOLD``."""
    return next((p for p in outcome["training"] if p["train_error"] <= THRESHOLD), None)
