"""Score trained weights on the test images of a data set.

  python evaluate.py runs/fashion                              on the data it was trained on
  ./launch.sh evaluate.py runs/fashion data.test_views=10      on every GPU, or two CPU processes
  python evaluate.py alexnet.pth data.folder=imagenet batch_size=64
  torchrun --nproc_per_node=2 evaluate.py SOURCE --config my.yaml --json scores.json

SOURCE is a checkpoint, a run's folder, or a .safetensors, .pth, .caffemodel, .npz or .onnx.
--config and key.sub=value change its settings, such as placement=hybrid. Ranks share the work as
in training; the scores do not depend on it.
"""

import argparse
import json
import logging
import math

from launch.program import ArgumentParser, run_program

from common.errors import ReportedError
from common.files import home_path, replacing
from distributed.mesh import Mesh
from launch.world import launched_world
from recording.source import (
    OTHER_CHECKPOINTS,
    check_channels,
    check_classes,
    read_source,
    warn_of_other_names,
)
from training.batches import make_preprocess, open_test_set, test_batches
from training.config import Config
from training.inference import score
from training.trainer import build_model

log = logging.getLogger(__name__)


def main() -> int:
    """Score the weights; returns the exit status."""
    arguments = parse_arguments()
    source = read_source(arguments.source)
    config = source.config(arguments.config, arguments.overrides)
    weights = source.check_fits(config)
    plan = config.plan(launched_world().size)
    mesh = Mesh.start(plan, config.timeout, share_devices=config.share_devices)
    mesh.check_equal(str(weights.source), *OTHER_CHECKPOINTS)
    test_set = open_test_set(config.data, mesh)
    check_classes(weights, len(test_set.classes), config)
    check_channels(weights, test_set.channels, config)
    warn_of_other_names(weights, test_set.classes)

    model = build_model(config, mesh, weights.classes, weights.channels, weights.tensors)
    preprocess = make_preprocess(config, weights.channels)
    batches = test_batches(config, mesh, test_set)
    scores = score(model, preprocess, config, mesh, batches)
    assert scores is not None, "only a stop request ends it early"
    if not math.isfinite(scores["test/loss"]):
        raise ReportedError(
            f"the loss of {weights.source} is {scores['test/loss']}: set precision=fp32, or name "
            "other weights"
        )
    report(scores, arguments, config, mesh, len(test_set))
    return 0


def report(
    scores: dict[str, float],
    arguments: argparse.Namespace,
    config: Config,
    mesh: Mesh,
    images: int,
) -> None:
    """Print the scores and, if asked to, write them as JSON, on rank 0."""
    log.info(
        "top-1 %.4f  top-5 %.4f  loss %.4f  (%s images of %s, %d view(s), %s, %d process(es), %s)",
        *(scores["test/top1"], scores["test/top5"], scores["test/loss"], f"{images:,}"),
        *(config.data.name, config.data.test_views, config.precision),
        *(mesh.plan.world_size, mesh.plan.placement),
    )
    facts = {
        "source": str(arguments.source),
        "variant": config.variant,
        "towers": config.towers,
        "data": config.data.name,
        "images": images,
        "test_views": config.data.test_views,
        "precision": config.precision,
        "world_size": mesh.plan.world_size,
        "placement": mesh.plan.placement,
        **{key.replace("/", "_"): value for key, value in scores.items()},
    }

    def write() -> None:
        with replacing(arguments.json) as aside:
            aside.write_text(json.dumps(facts, indent=1) + "\n")

    if arguments.json:
        mesh.from_main(write)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(
        description=__doc__, epilog="Overrides are train.py's: see python train.py --help."
    )
    add = parser.add_argument
    add("source", type=home_path, metavar="SOURCE", help="where the weights are")
    add("--config", type=home_path, metavar="FILE", help="a YAML file of settings")
    add("--json", type=home_path, metavar="FILE", help="write the scores to this file")
    add("overrides", nargs="*", metavar="key.sub=value", help="change a setting")
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    run_program(main)
