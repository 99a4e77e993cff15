"""Weights to start from or to use, and their settings: a checkpoint, a run's folder or a file."""

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import ReportedError
from recording.checkpoint import newest_checkpoint, read_tensors, verify_checkpoint
from recording.folder import RunFolder
from training.config import Config, DataConfig
from training.fields import Mark, marked_keys
from training.settings import config_over, resolve_config, upgrade
from weights.files import read_file
from weights.net import Weights, make_weights

log = logging.getLogger(__name__)

IMAGE_SETTINGS = marked_keys(DataConfig, Mark.PREPARES_IMAGES)
"""The settings of the data section that say how an image becomes the net's input."""


class Source(NamedTuple):
    """Weights, and the settings that came with them, as plain values."""

    weights: Weights
    settings: dict[str, Any]

    def check_fits(self, config: Config) -> Weights:
        """The weights; raises ReportedError if ``config`` describes another net."""
        if "variant" not in config.model_fields_set:
            self.weights.known_variant  # noqa: B018 - raises if nobody named it
        weights = self.weights.of_variant(config.variant, config.net.changes)
        if weights.towers != config.towers:
            raise ReportedError(
                f"{weights.source} holds a net of {weights.towers} tower(s), and towers is "
                f"{config.towers}: set towers={weights.towers}"
            )
        return weights

    def config(self, path: Path | None, overrides: list[str]) -> Config:
        """The settings, changed by a YAML file (if given), then by ``overrides``.

        Raises ReportedError if they are not valid or describe another net, and if neither the
        weights nor a file say how images are prepared.
        """
        if self.weights.preprocessing is None and path is None:
            raise ReportedError(
                f"{self.weights.source} does not say how its images are prepared: name a "
                "configuration whose data section does with --config"
            )
        config = config_over(self.settings, self.weights.source, path, overrides)
        self.check_fits(config)
        return config


HOW_A_RUN_WAS_EXECUTED = {
    "placement": "auto",
    "shards": None,
    "classifier_ranks": None,
    "compile": False,
    "weights": None,
}
"""Settings of a run that its weights do not need, at values that fit any number of ranks."""


HOW_IT_WAS_UPDATED = {"classifier_updates": "step", "gradient_accumulation": 1}
"""Such settings of its optimiser."""
OTHER_CHECKPOINTS = (
    "ranks have read other checkpoints",
    "a training goes on there, so name one of them",
)
"""The complaint where a run's newest checkpoint is not that of all ranks, and the way out."""


def check_classes(weights: Weights, classes: int, config: Config) -> None:
    """Raise ReportedError unless the net has ``classes`` outputs."""
    if weights.classes != classes:
        raise ReportedError(
            f"{weights.source} has {weights.classes} classes, and {config.data.name} has "
            f"{classes}: name data with as many, or train on these (train.py weights=…)"
        )


def warn_of_other_names(weights: Weights, classes: Sequence[str]) -> None:
    """Warn if the names of the classes differ, since their order may differ too."""
    if weights.class_names and list(weights.class_names) != list(classes):
        log.warning("the classes of the data have other names than those of %s", weights.source)


def check_channels(weights: Weights, channels: int, config: Config) -> None:
    """Raise ReportedError unless the net reads images of ``channels`` channels."""
    if weights.channels != channels:
        raise ReportedError(
            f"{weights.source} reads images of {weights.channels} channel(s), and "
            f"{config.data.name} has images of {channels}: name weights or data with as many"
        )


def read_source(source: Path) -> Source:
    """The weights at ``source``: a checkpoint, a run's folder (its newest checkpoint), or a file.

    Raises ReportedError if it is missing, damaged or not an AlexNet, or if its description of the
    net and its images is not valid.
    """
    if os.path.isdir(source):
        return _read_checkpoint(source)
    weights = read_file(source)
    if weights.preprocessing is not None:
        today = upgrade({"data": weights.preprocessing})["data"]
        weights = replace(weights, preprocessing=today)
    _check_description(weights)
    data = {"name": "image_folder", **(weights.preprocessing or {})}
    settings: dict[str, Any] = {
        "towers": weights.towers,
        "net": dict(weights.changes),
        "data": data,
    }
    if weights.variant is not None:
        settings.update(variant=weights.variant)
    return Source(weights, settings)


def _check_description(weights: Weights) -> None:
    """Raise ReportedError if a file's description sets anything but the net and its images."""
    known = weights.preprocessing or {}
    if unknown := sorted(known.keys() - IMAGE_SETTINGS):
        raise ReportedError(
            f"the description in {weights.source} sets {unknown[0]}, which does not prepare "
            "images: write the file with convert.py"
        )
    data = {"name": "synthetic", **known}
    resolve_config({"towers": 1, "net": dict(weights.changes), "data": data}, [], weights.source)


def _read_checkpoint(source: Path) -> Source:
    """A checkpoint's weights and settings, without those that say how the run was executed."""
    if os.path.lexists(source / "manifest.json") or re.fullmatch(r"step-\d+", source.name):
        path, state = source, verify_checkpoint(source)
    else:
        path, state = newest_checkpoint(RunFolder(source).checkpoints)
    settings = {**state["config"], **HOW_A_RUN_WAS_EXECUTED}
    settings["optimizer"] = {**settings.get("optimizer", {}), **HOW_IT_WAS_UPDATED}
    config = config_over(settings, path, None, [])
    preprocessing = config.data.model_dump(mode="json", include=IMAGE_SETTINGS)
    preprocessing["stored_size"] = config.data.image_side
    names = state.get("classes") or None
    weights = make_weights(
        *(path, read_tensors(path), config.variant, names, preprocessing), config.net.changes
    )
    return Source(weights, settings)
