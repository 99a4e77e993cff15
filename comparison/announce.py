"""Announces the trainings of a comparison, with an estimate of the time left."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)

Job = TypeVar("Job")


def announced(jobs: Sequence[Job], title: Callable[[Job], str]) -> Iterator[Job]:
    """Yield the jobs; announce each by its title, on a live line or, without a terminal, a line."""
    began, live = time.monotonic(), sys.stderr.isatty()
    bar = tqdm(jobs, unit="run", dynamic_ncols=True, disable=not live)
    for done, job in enumerate(bar):
        bar.set_description(title(job))
        if not live:
            left = (time.monotonic() - began) / done * (len(jobs) - done) if done else None
            still = f"{tqdm.format_interval(left)} left" if left else "no estimate yet"
            log.info("[%d/%d] %s; %s", done + 1, len(jobs), title(job), still)
        yield job
