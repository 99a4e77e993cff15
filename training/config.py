"""A run's configuration: YAML and overrides to typed, validated objects."""

import difflib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.alexnet import SMALLEST_SIDE
from model.errors import InputError
from model.variants import VARIANTS


class Section(BaseModel):
    """A group of settings; unknown keys are errors, and the text under each key is its help."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class DataConfig(Section):
    """Which images, and how they become the network's input."""

    name: Literal["fashion_mnist", "image_folder", "synthetic"] = "fashion_mnist"
    """Fashion-MNIST, folders named after their classes, or made-up images."""
    folder: Path | None = None
    """Where the files lie; Fashion-MNIST is looked for, then downloaded, without it."""
    size: int = Field(224, ge=SMALLEST_SIDE)
    """Side of the network's input, in pixels."""
    resize: int | None = None
    """Side to which images are resized before the crop to size; size itself, if not given."""
    mean: float | list[float] = 0.0
    """Subtracted from the pixels (0 to 255); one number, or one for each channel."""
    deviation: float | list[float] = 255.0
    """Divides the pixels after that; one number, or one for each channel."""
    mirror: bool = False
    """Flip half of the training images left to right."""
    workers: int = Field(0, ge=0)
    """Decoding processes of each rank, for image folders."""
    stored_size: int = Field(256, gt=0)
    """Side at which decoded or made-up images are kept, in pixels."""
    synthetic_length: int = Field(2048, gt=0)
    """Training images in the made-up set."""


class OptimizerConfig(Section):
    """Stochastic gradient descent."""

    learning_rate: float = Field(0.01, gt=0)
    """The largest rate of the schedule."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of the velocity; the rate multiplies the velocity, as in PyTorch."""
    nesterov: bool = False
    """Nesterov's momentum."""
    weight_decay: float = Field(5e-4, ge=0)
    """Times the weight, added to its gradient (biases too)."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Probability spread evenly over all classes."""
    accumulation: int = Field(1, ge=1)
    """Parts into which a replica cuts its share of a batch to save memory."""


class ScheduleConfig(Section):
    """How the learning rate moves."""

    name: Literal["constant", "plateau", "one_cycle"] = "constant"
    """Plateau divides by ten when the test error stalls (Krizhevsky 2012, section 5)."""
    warmup: float = Field(0.3, gt=0, lt=1)
    """one_cycle: the part of the run in which the rate rises."""
    patience: int = Field(3, ge=0)
    """plateau: epochs without a better error before the division."""


class TrackingConfig(Section):
    """Weights & Biases."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Auto is online with an API key, else offline."""
    project: str = "alexnet"
    """The project that runs are logged to."""
    group: str | None = None
    """Runs to be compared share a group; the run's name, if not given."""


class Config(Section):
    """Everything that defines a run."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Of the run's folder; where it is taken, -2, -3, … is appended."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Of the weights, the order of the images, augmentation and dropout."""
    variant: Literal["paper", "half", "d2l", "torchvision"] = "paper"
    """The net: a row of model/variants.py."""
    towers: int = Field(2, ge=1)
    """Parallel streams of the net; 1 is the single-stream form."""
    initial_values: Literal["released", "text", "xavier", "default"] | None = None
    """Of the weights, see model/initialization.py; the variant's own, if not given."""
    placement: Literal["auto", "local", "split"] = "auto"
    """Towers in one process, or one on each rank; auto splits if the ranks divide into towers."""
    batch_size: int = Field(128, gt=0)
    """Images per optimiser step over all replicas."""
    epochs: int = Field(1, gt=0)
    """Times that every training image is seen."""
    max_steps: int | None = Field(None, gt=0)
    """Fewer optimiser steps than the epochs have."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the forward and backward pass (autocast); weights stay fp32."""
    channels_last: bool = True
    """Memory layout of the convolutions."""
    compile: bool = False
    """Use torch.compile where it works."""
    checkpoint_every: int = Field(500, gt=0)
    """Steps between checkpoints; the end of the run has one too."""
    keep_checkpoints: int = Field(2, gt=0)
    """How many of the newest are kept."""
    runs: Path = Path("runs")
    """Where the runs' folders are made."""
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _possible(self) -> "Config":
        for width in VARIANTS[self.variant].convolutions:
            if width % self.towers:
                raise ValueError(f"{self.towers} towers do not divide a width of {width}")
        if self.data.resize is not None and self.data.resize < self.data.size:
            raise ValueError("data.resize must be at least data.size")
        if self.data.name == "image_folder" and self.data.folder is None:
            raise ValueError("data.folder must name the folder with train/ and test/")
        if self.optimizer.nesterov and not self.optimizer.momentum:
            raise ValueError("optimizer.nesterov needs a momentum above 0")
        return self


# Settings that a resumed run may change: they do not touch what is computed.
CHANGEABLE = {
    *("name", "runs", "placement", "compile", "channels_last", "checkpoint_every"),
    *("keep_checkpoints", "data.folder", "data.workers", "optimizer.accumulation"),
    *("tracking.mode", "tracking.project", "tracking.group"),
}


def load_config(path: Path, overrides: list[str]) -> Config:
    """The configuration of a YAML file with ``key.sub=value`` overrides.

    Raises InputError that lists every fault with the file, the key and the nearest valid one.
    """
    values = _read(path)
    for override in overrides:
        _override(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise InputError("\n".join(_explain(path, fault) for fault in error.errors())) from None


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def check_same_run(config: Config, saved: dict[str, Any]) -> None:
    """Raise InputError when ``config`` would not continue the run saved as JSON values."""
    before, now = dict(_flat(saved)), dict(_flat(config.model_dump(mode="json")))
    for key in sorted((before | now).keys() - CHANGEABLE):
        if before.get(key) != now.get(key):
            raise InputError(
                f"cannot resume with another {key}: it was {before.get(key)} and is now "
                f"{now.get(key)}; set it back, or start a new run without --resume"
            )


def settings_help() -> str:
    """Every setting with its default and what it does, for ``--help``."""
    lines = []
    for key, field in _fields(Config):
        choices = _choices(field.annotation)
        listed = f"  ({', '.join(choices)})" if choices else ""
        lines.append(f"  {key} = {_plain(field.get_default())}{listed}")
        lines.append(f"      {field.description}")
    return "\n".join(lines)


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def _choices(annotation: Any) -> list[str]:
    if typing.get_origin(annotation) is Literal:
        return list(typing.get_args(annotation))
    return [choice for part in typing.get_args(annotation) for choice in _choices(part)]


def _plain(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InputError(f"cannot read the config {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or the date 2026-99-99
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not valid YAML: {reason}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold a mapping of keys to values")
    return values


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"cannot use the argument {override!r}: overrides look like key.sub=value")
    *parents, last = key.split(".")
    for parent in parents:
        section = values.setdefault(parent, {})
        if not isinstance(section, dict):
            raise InputError(f"cannot use the override {override!r}: {parent} is not a section")
        values = section
    try:
        values[last] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        raise InputError(f"the value in {override!r} is not valid YAML") from None


def _explain(where: Path, fault: Any) -> str:
    # Of a setting that may be a number or a list, pydantic names the form it tried as well.
    key = ".".join(str(part) for part in fault["loc"] if part not in ("float", "list[float]"))
    if fault["type"] == "extra_forbidden":
        names = _valid_keys(fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), names, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(names)}"
        return f"{where}: {key}: unknown key, {hint}"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {key}: {message} (got {fault['input']!r})" if key else f"{where}: {message}"


def _valid_keys(sections: tuple[Any, ...]) -> list[str]:
    model: type[BaseModel] = Config
    for name in sections:
        annotation = model.model_fields[str(name)].annotation
        assert isinstance(annotation, type)
        model = annotation
    return list(model.model_fields)
