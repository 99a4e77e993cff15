"""Time to accuracy of the default job and of changes to its recipe, over several seeds.

Each run is the real program on two ranks. Its time excludes start-up and evaluations. ``points`` is
the difference in accuracy to the default job with the same seeds, with its 95 % interval. The D2L
chapter trains its net for ten epochs at 224 px, which takes hours on a CPU. So only its speed is
measured: its time is that of ten epochs at this speed, and its accuracy is the one that the chapter
prints.

Interrupted, it goes on where it was when started again with the same --folder; more seeds can be
asked for, and fewer recipes.
"""

from pathlib import Path
from statistics import mean, stdev

from launch.program import run_program

from benchmarks import peers
from benchmarks.contest import Contestant, Row, contest, plain_parser, report
from common.arguments import whole
from common.files import home_path
from comparison.learning import Learning, Outcome, Study
from comparison.statistics import paired_difference
from launch.children import ROOT
from training.settings import load_config

CONFIG = ROOT / "configs" / "fashion.yaml"
NO_DROPOUT = ["net.dropout=[0,0,0]"]
NO_MIRROR = ["data.mirror=false", "data.test_views=1"]
SMOOTHED = ["optimizer.label_smoothing=0.1"]
SHORT_RISE = ["schedule.warmup=0.15"]
ALL = [*NO_DROPOUT, *NO_MIRROR, *SMOOTHED, *SHORT_RISE]

RECIPES: dict[str, list[str]] = {
    "default": [],
    "without dropout": NO_DROPOUT,
    "without mirror images": NO_MIRROR,
    "with label smoothing": SMOOTHED,
    "with half the warm-up": SHORT_RISE,
    "these four, 2.5 epochs": ["epochs=2.5", *ALL],
    "these four, at 64 px": ["data.size=64", *ALL],
    "one epoch": ["epochs=1", "batch_size=128", "optimizer.learning_rate=0.02"],
}
KNOWN, RANKS = 60_000, 2
D2L_IMAGES, D2L_BATCH, D2L_ACCURACY = 10 * KNOWN, 128, 0.881


def train_all(recipes: list[str], seeds: int, folder: Path) -> list[Outcome]:
    """The outcomes of the recipes with every seed; ``folder`` keeps them."""
    config = load_config(CONFIG, [])
    study = Study(RECIPES, config, CONFIG, [], RANKS, seeds=seeds, known=KNOWN, trial_images=0)
    folder.mkdir(parents=True, exist_ok=True)
    return Learning(study, folder).run(recipes)


def rows_of(outcomes: list[Outcome]) -> list[Row]:
    """A row for each recipe."""
    recipes: dict[str, dict[int, Outcome]] = {}  # outcomes by seed
    for each in outcomes:
        recipes.setdefault(each["form"], {})[each["seed"]] = each
    return [_row(recipe, own, recipes["default"]) for recipe, own in recipes.items()]


def _row(recipe: str, own: dict[int, Outcome], default: dict[int, Outcome]) -> Row:
    accuracy = [100 * each["test_top1"] for each in own.values()]
    both = own.keys() & default.keys()
    apart = paired_difference(*([100 * r[s]["test_top1"] for s in both] for r in (own, default)))
    return {
        "recipe": recipe,
        "seconds": mean(each["seconds"] for each in own.values()),
        "accuracy, %": mean(accuracy),
        "±": stdev(accuracy) if len(accuracy) > 1 else None,
        "lowest": min(accuracy),
        "seeds": len(own),
        "points": apart and f"{apart.mean:+.2f} ({apart.low:+.2f} to {apart.high:+.2f})",
    }


def main() -> int:
    """Train the recipes with every seed, and time the chapter's step."""
    made = plain_parser(__doc__)
    add = made.add_argument
    add("--seeds", type=whole(), default=3, metavar="N", help="default: %(default)s")
    add("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="NAME")
    add("--folder", type=home_path, default=Path("runs", "benchmarks", "accuracy"), metavar="DIR")
    arguments = made.parse_args()
    recipes = list(dict.fromkeys(["default", *arguments.recipes]))
    rows = rows_of(train_all(recipes, arguments.seeds, arguments.folder))
    d2l = Contestant("D2L", peers.training_step, ("d2l", 1, D2L_BATCH, 10))
    step = contest([d2l], rounds=3)["D2L"].seconds
    rows.append(
        {
            "recipe": "D2L, ten epochs at the measured rate",
            "seconds": D2L_IMAGES / D2L_BATCH * step,
            "accuracy, %": 100 * D2L_ACCURACY,
        }
    )
    report("accuracy", {"Fashion-MNIST, split over two ranks": rows}, arguments.json)
    return 0


if __name__ == "__main__":
    run_program(main, most_ranks=1)
