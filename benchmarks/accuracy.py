"""Time to accuracy of the default job, over several seeds, beside the D2L chapter's recipe.

Each run is the real program on two ranks. Its time excludes start-up and evaluations. The chapter
trains its net for ten epochs at 224 px, which takes hours on a CPU. So only its speed is measured:
its time is that of ten epochs at this speed, and its accuracy is the one that the chapter prints.
"""

import json
import tempfile
from pathlib import Path
from statistics import mean, stdev

from tqdm import tqdm

from benchmarks import peers
from benchmarks.contest import Contestant, Row, contest, parser, report
from comparison.measure import train
from launch.children import ROOT

RECIPES: dict[str, list[str]] = {
    "default": [],
    "short": ["epochs=1", "batch_size=128", "optimizer.learning_rate=0.02"],
}
D2L_IMAGES, D2L_BATCH, D2L_ACCURACY = 10 * 60_000, 128, 0.881


def outcome(settings: list[str], seed: int) -> tuple[float, float]:
    """Seconds of training, and the final test accuracy."""
    with tempfile.TemporaryDirectory() as runs:
        settings = [*settings, f"seed={seed}", "keep_checkpoints=0"]
        folder = train(ROOT / "configs" / "fashion.yaml", 2, settings, "run", Path(runs))
        summary = json.loads(folder.summary.read_text())
    return summary["train_seconds"], summary["test_top1"]


def main() -> None:
    """Train every recipe with every seed."""
    add = parser(__doc__)
    add.add_argument("--seeds", type=int, default=3, metavar="N", help="default: %(default)s")
    arguments = add.parse_args()
    jobs = [(recipe, seed) for seed in range(arguments.seeds) for recipe in RECIPES]
    found: dict[str, list[tuple[float, float]]] = {recipe: [] for recipe in RECIPES}
    for recipe, seed in (bar := tqdm(jobs, disable=None)):
        bar.set_description(f"{recipe}, seed {seed}")
        found[recipe].append(outcome(RECIPES[recipe], seed))
    rows: list[Row] = []
    for recipe, runs in found.items():
        seconds, accuracies = zip(*runs, strict=True)
        rows.append(
            {
                "recipe": " ".join(["fashion.yaml", *RECIPES[recipe]]),
                "seconds": mean(seconds),
                "accuracy": mean(accuracies),
                "std": stdev(accuracies) if len(runs) > 1 else None,
                "lowest": min(accuracies),
                "seeds": len(runs),
            }
        )
    d2l = Contestant("D2L", peers.training_step, ("d2l", 1, D2L_BATCH, 10))
    step = contest([d2l], rounds=3)["D2L"].seconds
    rows.append(
        {
            "recipe": "D2L, ten epochs at the measured rate",
            "seconds": D2L_IMAGES / D2L_BATCH * step,
            "accuracy": D2L_ACCURACY,
        }
    )
    report("accuracy", {"Fashion-MNIST, split over two ranks": rows}, arguments.json)


if __name__ == "__main__":
    main()
