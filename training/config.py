"""A run's configuration: YAML and overrides to typed, validated objects."""

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.alexnet import SMALLEST_SIDE
from model.errors import InputError
from model.variants import VARIANTS


class Section(BaseModel):
    """A group of settings; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Section):
    """Which images, and how they become the network's input."""

    name: Literal["fashion_mnist", "image_folder", "synthetic"] = "fashion_mnist"
    folder: Path | None = None
    """Where the files lie; without it Fashion-MNIST is looked for, then downloaded."""
    size: int = Field(224, ge=SMALLEST_SIDE)
    """Side of the network's input, in pixels."""
    resize: int | None = None
    """Side to which images are resized before the crop; without it ``size``."""
    mean: float | list[float] = 0.0
    """Subtracted from the pixels (0 to 255), one for all channels or one each."""
    deviation: float | list[float] = 255.0
    """Divides the pixels after that."""
    mirror: bool = False
    """Flip half of the training images left to right."""
    workers: int = Field(0, ge=0)
    """Decoding processes per rank, for image folders."""
    stored_size: int = Field(256, gt=0)
    """Side at which decoded or synthetic images are kept."""
    synthetic_length: int = Field(2048, gt=0)
    """Training images in the synthetic set."""


class OptimizerConfig(Section):
    """Stochastic gradient descent."""

    learning_rate: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(5e-4, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    accumulation: int = Field(1, ge=1)
    """Parts into which a replica's share of a batch is cut to save memory."""


class ScheduleConfig(Section):
    """How the learning rate moves."""

    name: Literal["constant", "plateau", "one_cycle"] = "constant"
    """``plateau`` divides by ten when the test error stalls (section 5)."""
    warmup: float = Field(0.3, gt=0, lt=1)
    """one_cycle: the part of the run in which the rate rises."""
    patience: int = Field(3, ge=0)
    """plateau: epochs without a better error before the division."""


class TrackingConfig(Section):
    """Weights & Biases."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto: online with an API key, else offline."""
    project: str = "alexnet"
    group: str | None = None
    """Runs to be compared share a group; without it the run's name."""


class Config(Section):
    """Everything that defines a run."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0)
    variant: Literal["paper", "half", "d2l", "torchvision"] = "paper"
    towers: int = Field(2, ge=1)
    initial_values: Literal["released", "text", "xavier", "default"] | None = None
    """Without it the variant's own."""
    placement: Literal["auto", "local", "split"] = "auto"
    batch_size: int = Field(128, gt=0)
    """Images per optimiser step over all replicas."""
    epochs: int = Field(1, gt=0)
    max_steps: int | None = Field(None, gt=0)
    """Stop after so many steps, whatever the epochs say."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    compile: bool = False
    checkpoint_every: int = Field(500, gt=0)
    """Steps between checkpoints; one is also written at the end."""
    keep_checkpoints: int = Field(2, gt=0)
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
        if self.optimizer.nesterov and not self.optimizer.momentum:
            raise ValueError("optimizer.nesterov needs a momentum above 0")
        return self


def load_config(path: Path | None, overrides: list[str]) -> Config:
    """The configuration of a YAML file (or the defaults) with ``key.sub=value`` overrides.

    Raises InputError that lists every fault with the file, the key and the nearest valid one.
    """
    values = _read(path) if path else {}
    for override in overrides:
        _override(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        where = str(path or "command line")
        raise InputError("; ".join(_explain(where, fault) for fault in error.errors())) from None


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InputError(f"cannot read the config {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
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
    except yaml.YAMLError:
        raise InputError(f"the value in {override!r} is not valid YAML") from None


def _explain(where: str, fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        names = _valid_keys(fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), names, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(names)}"
        return f"{where}: {key}: unknown key, {hint}"
    message = fault["msg"].removeprefix("Value error, ")
    got = f" (got {fault['input']!r})" if key else ""
    return f"{where}: {key + ': ' if key else ''}{message}{got}"


def _valid_keys(sections: tuple[Any, ...]) -> list[str]:
    model: type[BaseModel] = Config
    for name in sections:
        annotation = model.model_fields[str(name)].annotation
        assert isinstance(annotation, type)
        model = annotation
    return list(model.model_fields)
