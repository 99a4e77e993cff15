"""A small job on the ranks that were launched, which the programs in this folder share."""

from collections.abc import Iterator
from pathlib import Path

from distributed.mesh import Mesh
from launch.world import launched_world
from training.batches import LocalBatch, count_steps, local_batches, make_preprocess, open_sets
from training.config import Config
from training.settings import load_config
from training.trainer import Trainer, build_model

CONFIG = Path(__file__).with_name("lesson.yaml")


def start_mesh(config: Config) -> Mesh:
    """The launched ranks, by the plan of a configuration."""
    plan = config.plan(launched_world().size)
    return Mesh.start(plan, config.timeout, share_devices=config.share_devices)


def load(overrides: list[str]) -> Config:
    """The settings of ``lesson.yaml``, changed by overrides as for train.py."""
    return load_config(CONFIG, overrides)


def start(config: Config, mesh: Mesh) -> tuple[Trainer, Iterator[LocalBatch]]:
    """A trainer on the ranks of ``mesh``, and this rank's part of one batch after the other."""
    images, _ = open_sets(config.data, mesh)
    model = build_model(config, mesh, len(images.classes), images.channels)
    steps, preprocess = count_steps(config, len(images)), make_preprocess(config, images.channels)
    trainer = Trainer(config, mesh, model, preprocess, steps)
    return trainer, local_batches(config, mesh, images, 0, steps)
