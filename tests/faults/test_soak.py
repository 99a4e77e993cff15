"""All faults, over all placements, for SOAK_MINUTES."""

import os
import time

import pytest

from tests.faults.soak import Soak


@pytest.mark.slow
def test_runs_under_random_faults_end_with_the_exact_weights(tmp_path, happened):
    seed = int(os.environ.get("SOAK_SEED", time.time()))
    soak = Soak(tmp_path)
    rounds = soak.run(seed, float(os.environ.get("SOAK_MINUTES", "5")))
    struck = ", ".join(f"{number} x {what}" for what, number in soak.struck.most_common())
    happened(f"{struck}, at random from seed {seed}", f"{rounds} rounds ended with exact weights")
