"""Weights to start from or to use: a checkpoint, a run's folder or a file, and its settings."""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import ReportedError
from model.variants import VARIANTS
from recording.checkpoint import newest_checkpoint, read_tensors, verify_checkpoint
from recording.folder import RunFolder
from training.batches import stored_side
from training.config import Config
from training.settings import config_over, resolve_config
from weights.files import read_file
from weights.net import Weights, make_weights

PREPROCESSING = ("size", "resize", "stored_size", "mean", "mean_image", "std", "test_views")
"""The settings of the data section that make an image the net's input."""


class Source(NamedTuple):
    """Weights, and the settings of a configuration that came with them, as plain values."""

    weights: Weights
    settings: dict[str, Any]

    def check_fits(self, config: Config) -> Weights:
        """The weights, if ``config`` is of their net; raises ReportedError if it is of another."""
        if "variant" not in config.model_fields_set:
            self.weights.known_variant  # noqa: B018 - raises where nobody said
        weights = self.weights.of_variant(config.variant, config.net.changes)
        if weights.towers != config.towers:
            raise ReportedError(
                f"{weights.source} holds a net of {weights.towers} tower(s), and towers is "
                f"{config.towers}: set towers={weights.towers}"
            )
        return weights

    def config(self, path: Path | None, overrides: list[str]) -> Config:
        """These settings, changed by the YAML file at ``path`` if any, then by ``overrides``.

        Raises ReportedError when they are not valid, are of another net, or when neither the
        weights nor a file say how an image becomes the net's input.
        """
        if self.weights.preprocessing is None and path is None:
            raise ReportedError(
                f"{self.weights.source} does not say how its images are prepared: name a "
                "configuration whose data section does with --config"
            )
        config = config_over(self.settings, self.weights.source, path, overrides)
        self.check_fits(config)
        return config


def check_classes(weights: Weights, classes: int, config: Config) -> None:
    """Raise ReportedError unless the net tells so many ``classes`` apart."""
    if weights.classes != classes:
        raise ReportedError(
            f"{weights.source} tells {weights.classes} classes apart, and {config.data.name} has "
            f"{classes}: name data with as many, or train on these (train.py weights=…)"
        )


def check_channels(weights: Weights, channels: int, config: Config) -> None:
    """Raise ReportedError unless the net is for images of so many ``channels``."""
    if weights.channels != channels:
        raise ReportedError(
            f"{weights.source} reads images of {weights.channels} channel(s), and those of "
            f"{config.data.name} have {channels}: name weights or data with as many"
        )


def read_source(source: Path) -> Source:
    """What the user named: a checkpoint, a run's folder (its newest checkpoint), or a file.

    Raises ReportedError when it is missing, damaged, not an AlexNet's, or describes its net and
    images in words that are no settings.
    """
    source = Path(os.path.expanduser(source))
    if os.path.isdir(source):
        return _read_checkpoint(source)
    weights = read_file(source)
    _check_description(weights)
    data = {"name": "image_folder", **(weights.preprocessing or {})}
    settings: dict[str, Any] = {
        "towers": weights.towers,
        "net": dict(weights.changes),
        "data": data,
    }
    if weights.variant is not None:
        settings.update(variant=weights.variant, placement=_placement(weights.variant))
    return Source(weights, settings)


def _check_description(weights: Weights) -> None:
    """Raise ReportedError for what would set anything else than it may, or not as it can be set."""
    known = weights.preprocessing or {}
    if unknown := sorted(known.keys() - set(PREPROCESSING)):
        raise ReportedError(
            f"the description in {weights.source} says more than how images are prepared, "
            f"{unknown[0]}: write the file with convert.py"
        )
    data = {"name": "synthetic", **known}
    resolve_config({"towers": 1, "net": dict(weights.changes), "data": data}, [], weights.source)


def _read_checkpoint(source: Path) -> Source:
    """How a run was placed and compiled is not the business of those who use its weights."""
    if os.path.lexists(source / "manifest.json") or re.fullmatch(r"step-\d+", source.name):
        path, state = source, verify_checkpoint(source)
    else:
        path, state = newest_checkpoint(RunFolder(source).checkpoints)
    settings = {**state["config"], "placement": "auto", "compile": False, "weights": None}
    config = config_over(settings, path, None, [])
    settings["placement"] = _placement(config.variant)
    preprocessing = config.data.model_dump(mode="json", include=set(PREPROCESSING))
    preprocessing["stored_size"] = stored_side(config.data)
    names = state.get("classes") or None
    weights = make_weights(
        *(path, read_tensors(path), config.variant, names, preprocessing), config.net.changes
    )
    return Source(weights, settings)


def _placement(variant: str) -> str:
    """The one that a net of ``variant`` can have on any number of ranks."""
    return "local" if VARIANTS[variant].lrn_spans_towers else "auto"
