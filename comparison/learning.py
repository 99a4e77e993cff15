"""Trains forms of the net to the end, with several seeds, each at a learning rate of its own."""

import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from pathlib import Path
from typing import Any

from common.errors import ReportedError
from common.files import replacing
from comparison.announce import announced
from comparison.measure import TrainingError, train
from comparison.rates import best_rate
from comparison.session import NOT_PLANNED, check_plan
from recording.folder import RunFolder
from recording.metrics import read_metrics
from training.batches import count_steps
from training.config import Config
from training.settings import load_config

log = logging.getLogger(__name__)

Outcome = dict[str, Any]

POINTS = 60
"""Groups of steps in a curve of the training error."""
FAILED = -1.0
"""The accuracy of a trial at whose learning rate the net fails."""


class FormFailedError(ReportedError):
    """A form fails at every learning rate that it may have."""


@dataclass(frozen=True)
class Study:
    """A comparison: each form is trained with each of ``seeds`` seeds.

    ``source`` and ``overrides`` are the file and the overrides that ``config`` was read from.
    A training sees ``images`` images (None: as many as its configuration says) of the ``known``
    ones. Rates are searched in trials on ``trial_images`` (None: as many as in a training, because
    shorter trials choose lower rates), tested on ``held_out`` of the training images; with 0
    images, each form keeps its own rate.
    """

    forms: dict[str, list[str]]
    config: Config
    source: Path
    overrides: list[str]
    processes: int
    seeds: int
    known: int
    images: int | None = None
    trial_images: int | None = None
    held_out: int = 0
    evaluations: int = 1

    def plan(self) -> dict[str, Any]:
        """All that must be equal for a study to go on.

        More forms, more seeds and trials of another length may be asked for, and another precision,
        which ``auto`` chooses by the machine, for seeds that have not been begun.
        """
        names = ("known", "images", "held_out", "evaluations")
        own = {name: getattr(self, name) for name in names}
        forms = {f"form {name}": settings for name, settings in self.forms.items()}
        return {
            "config": self.config.model_dump(mode="json", exclude={*NOT_PLANNED, "precision"}),
            **own,
            **forms,
        }

    @property
    def each_seed(self) -> range:
        """The seeds, from the configuration's on."""
        return range(self.config.seed, self.config.seed + self.seeds)

    def settings(self, form: str) -> list[str]:
        """The overrides of a form."""
        return [*self.overrides, *self.forms[form], "keep_checkpoints=0"]

    def own_config(self, form: str) -> Config:
        """The configuration of a form."""
        return load_config(self.source, self.settings(form))

    def steps(self, form: str) -> int:
        """The steps of a training of a form."""
        config = self.own_config(form)
        if self.images is None:
            return count_steps(config, min(self.known, config.data.train_images or self.known))
        return -(-self.images // config.batch_size)

    def trial_steps(self, form: str) -> int:
        """The steps of a trial of a form."""
        if self.trial_images is None:
            return self.steps(form)
        return -(-self.trial_images // self.own_config(form).batch_size)


class Learning:
    """A study in progress; each training is kept in ``folder/learning.json`` at once."""

    def __init__(self, study: Study, folder: Path) -> None:
        """Go on with what ``folder`` holds; raises ReportedError if that has other settings."""
        check_plan(folder, study.plan())
        self.study, self.path = study, folder / "learning.json"
        kept = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.trials: list[Outcome] = kept.get("trials", [])
        self.outcomes: list[Outcome] = kept.get("outcomes", [])

    def run(self, forms: Sequence[str] = ()) -> list[Outcome]:
        """Find the rates, then train the forms (all, if none are named) with every seed.

        A rate at which the net fails with any seed is given up for the next best, for all seeds.
        Returns the outcomes so far, by form. Raises FormFailedError if every rate of a form fails,
        and ReportedError if a seed was begun in another precision.
        """
        forms, seeds = forms or list(self.study.forms), self.study.each_seed
        done = {(each["form"], each["seed"]) for each in self.outcomes}
        self._check_precision(job for job in product(forms, seeds) if job not in done)
        while not self._train_all(rates := {form: self._rate(form) for form in forms}):
            pass  # a rate was given up
        order = {form: number for number, form in enumerate(self.study.forms)}
        found = [
            each
            for each in self.outcomes
            if each["form"] in order
            and each["seed"] in seeds
            and each["learning_rate"] == rates.get(each["form"], each["learning_rate"])
        ]
        return sorted(found, key=lambda each: (order[each["form"]], each["seed"]))

    def _train_all(self, rates: Mapping[str, float]) -> bool:
        """Train each form at its rate with every seed; False once a rate has to be given up."""
        for form, seed in self._missing(rates):
            rate = rates[form]
            try:
                outcome = self._train(form, rate, seed)
            except TrainingError as failure:
                if self.study.trial_images == 0:
                    raise FormFailedError(f"{form}, seed {seed}: {failure}") from None
                log.info("%s, seed %d: %g is given up: %s", form, seed, rate, failure)
                self._keep_trial(form, rate, seed, None)
                return False
            own = {"form": form, "seed": seed, "learning_rate": rate}
            self.outcomes.append({**own, "precision": self.study.config.precision, **outcome})
            self._keep()
        return True

    def _rate(self, form: str) -> float:
        """A form's learning rate: its own, or the best of some trials on held-out images."""
        own = self.study.own_config(form).optimizer.learning_rate
        if self.study.trial_images == 0:
            return own

        def accuracy_at(rate: float) -> float:
            trial = {"form": form, "learning_rate": rate, "steps": self.study.trial_steps(form)}
            done = [each["test_top1"] for each in self.trials if trial.items() <= each.items()]
            accuracies = done or [self._try(form, rate)]
            return FAILED if None in accuracies else float(accuracies[0])

        rate = best_rate(own, accuracy_at)
        if accuracy_at(rate) == FAILED:
            raise FormFailedError(f"{form}: every learning rate that was tried failed, see above")
        return rate

    def _try(self, form: str, rate: float) -> float | None:
        """The accuracy in a trial of a rate; None if the net fails at this rate."""
        log.info("%s: trying a learning rate of %g", form, rate)
        steps, seed = self.study.trial_steps(form), self.study.config.seed
        settings = [f"data.held_out={self.study.held_out}", f"evaluate_every={steps}"]
        try:
            outcome = self._outcome(form, rate, seed, steps, settings)
            accuracy = outcome["test_top1"]
        except TrainingError as failure:
            log.info("%s: it fails: %s", form, failure)
            accuracy = None
        self._keep_trial(form, rate, seed, accuracy)
        return accuracy

    def _keep_trial(self, form: str, rate: float, seed: int, accuracy: float | None) -> None:
        trial = {"form": form, "learning_rate": rate, "steps": self.study.trial_steps(form)}
        self.trials.append({**trial, "seed": seed, "test_top1": accuracy})
        self._keep()

    def _train(self, form: str, rate: float, seed: int) -> Outcome:
        steps = self.study.steps(form)
        every = max(1, steps // self.study.evaluations)
        return self._outcome(form, rate, seed, steps, [f"evaluate_every={every}"])

    def _outcome(
        self, form: str, rate: float, seed: int, steps: int, settings: list[str]
    ) -> Outcome:
        own = [*self.study.settings(form), *settings]
        own += [f"optimizer.learning_rate={rate}", f"seed={seed}", f"max_steps={steps}"]
        own.append(f"epochs={steps}")  # as many as there may be
        with tempfile.TemporaryDirectory(prefix="compare-") as runs:
            run = train(self.study.source, self.study.processes, own, "run", Path(runs))
            return outcome_of(run)

    def _missing(self, rates: Mapping[str, float]) -> Iterator[tuple[str, int]]:
        """The trainings at these rates that are not yet done: all forms with a seed, then the next.

        Each is announced with an estimate of the time left.
        """
        done = {(each["form"], each["seed"], each["learning_rate"]) for each in self.outcomes}
        seeds = self.study.each_seed
        jobs = [(f, seed) for seed in seeds for f in rates if (f, seed, rates[f]) not in done]
        self._check_precision(jobs)
        return announced(jobs, lambda job: f"{job[0]}, seed {job[1]}")

    def _check_precision(self, jobs: Iterable[tuple[str, int]]) -> None:
        """Raise ReportedError if a job's form would be compared with one of another precision."""
        own = self.study.config.precision
        begun = {each["seed"]: each.get("precision", own) for each in self.outcomes}
        for form, seed in jobs:
            if begun.get(seed, own) != own:
                raise ReportedError(
                    f"seed {seed} was begun in {begun[seed]}, and {form} in {own} could not be "
                    f"compared with it: set precision={begun[seed]}, or start a new study"
                )

    def _keep(self) -> None:
        content = {"trials": self.trials, "outcomes": self.outcomes}
        with replacing(self.path) as aside:
            aside.write_text(json.dumps(content, indent=1) + "\n")


def outcome_of(run: RunFolder) -> Outcome:
    """The final state of a training, with ``curve`` and ``training``.

    ``curve`` has the state at each evaluation, but for those that follow another one closely.
    ``training`` has the mean training error over each of about ``POINTS`` groups of steps.
    """
    lines = read_metrics(run.metrics)
    steps = [line for line in lines if "train/loss" in line]
    images = list(accumulate(line["train/images"] for line in steps))
    spent = (line["train/images"] / line["step/images_per_second"] for line in steps)
    seconds = list(accumulate(spent))

    def place(step: int) -> dict[str, Any]:
        epoch = steps[step - 1]["epoch"]
        return {"images": images[step - 1], "seconds": seconds[step - 1], "epoch": epoch}

    tests = [line for line in lines if "test/top1" in line]
    curve = [
        {**place(line["step"]), "test_top1": line["test/top1"], "test_loss": line["test/loss"]}
        for line in _apart(tests)
    ]
    each = max(1, round(len(steps) / POINTS))
    parts = [steps[first : first + each] for first in range(0, len(steps), each)]
    training = [{**place(part[-1]["step"]), "train_error": _error(part)} for part in parts]
    summary = json.loads(run.summary.read_text())
    return {
        **curve[-1],
        "train_error": training[-1]["train_error"],
        "parameters": summary["parameters"],
        "curve": curve,
        "training": training,
    }


def _apart(tests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The evaluations without those that nearly coincide with the next one."""
    usual = tests[0]["step"]
    kept: list[dict[str, Any]] = []
    for test in reversed(tests):  # the last one stays
        if not kept or kept[-1]["step"] - test["step"] >= usual / 2:
            kept.append(test)
    return kept[::-1]


def _error(steps: list[dict[str, Any]]) -> float:
    """The training error in ``steps``: the fraction of wrongly classified images."""
    right = sum(step["train/top1"] * step["train/images"] for step in steps)
    return float(1 - right / sum(step["train/images"] for step in steps))
