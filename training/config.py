"""The schema of a run's configuration: every setting, its type, its default and its help."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from model.alexnet import SMALLEST_SIDE
from model.variants import Meeting, Variant, net_form

DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


LARGEST_SIDE = 4096
"""Of images, in pixels; the net's fc6 would have 17 billion weights."""
LONGEST_NAME = 255
"""Bytes, in a file system."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What no name of anything has: control characters, and bytes that are no text."""
Probability = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A group of settings; unknown keys are errors, and the text under each key is its help."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        """What pydantic would let pass: true for 1, and text that is no name of anything."""
        kinds = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and bool not in (kinds, *get_args(kinds)):
            raise ValueError("Input should be no truth value")
        if isinstance(value, str) and CONTROL.search(value):
            raise ValueError("Input should have no control characters")
        if isinstance(value, str) and max(map(len, value.encode().split(b"/"))) > LONGEST_NAME:
            raise ValueError(f"Input should have names of at most {LONGEST_NAME} bytes")
        return value


class DataConfig(Section):
    """Which images, and how they become the network's input."""

    name: Literal["fashion_mnist", "image_folder", "packed", "synthetic", "textures"] = (
        "fashion_mnist"
    )
    """Fashion-MNIST, folders named after their classes, what prepare.py made of those, or made-up
    images: patterns, textures."""
    folder: Path | None = None
    """Where the files lie; Fashion-MNIST is looked for, then downloaded, without it."""
    size: int = Field(224, ge=SMALLEST_SIDE, le=LARGEST_SIDE)
    """Side of the network's input, in pixels."""
    resize: int | None = Field(None, le=LARGEST_SIDE)
    """Side to which images are resized before the crop to size; size itself, if not given."""
    mean: float | list[float] = 0.0
    """Subtracted from the pixels (0 to 255); one number, or one for each channel."""
    mean_image: Path | None = None
    """A NumPy file (resize, resize, channels) whose centre is subtracted in place of mean."""
    std: float | list[float] = 255.0
    """Divides the pixels after that; one number, or one for each channel."""
    mirror: bool = False
    """Flip half of the training images left to right."""
    color_noise: float = Field(0.0, ge=0)
    """Change the colours of training images along the principal components of color_covariance,
    by normal multiples of this part of their deviations (Krizhevsky 2012, section 4.1: 0.1)."""
    color_covariance: list[list[float]] | None = None
    """Of the channels of the training pixels, as prepare.py measures it."""
    test_views: Literal[1, 2, 10] = 1
    """Of a test image: its centre; and mirrored; and its corners. Their probabilities are averaged.
    """
    workers: int = Field(0, ge=0, le=256)
    """Reading threads of each rank, for image folders and packed images."""
    stored_size: int = Field(256, gt=0, le=LARGEST_SIDE)
    """Side at which decoded or made-up images are kept, in pixels."""
    synthetic_length: int = Field(2048, gt=0, le=10**8)
    """Training images in the made-up set."""


class NetConfig(Section):
    """What of the variant is changed; what is not given stays as its row has it."""

    local_response_norm: bool | None = None
    """Normalise after conv1 and conv2 (Krizhevsky 2012, section 3.3)."""
    activation: Literal["relu", "tanh", "sigmoid"] | None = None
    """What follows conv1 to fc7 (section 3.1)."""
    pool: Literal[2, 3] | None = None
    """Side of the pooling windows, 2 pixels apart: of 2 they do not overlap (section 3.4)."""
    dropout: tuple[Probability, Probability, Probability] | None = None
    """Of the inputs of fc6, and of the outputs of fc6 and of fc7 (section 4.2)."""
    hidden: int | None = Field(None, gt=0)
    """Units of fc6 and of fc7, which have nine tenths of the weights."""
    meet: tuple[Meeting, ...] | None = None
    """Layers that read every tower, any of three; with [] the towers meet in their logits alone."""

    @property
    def changes(self) -> dict[str, Any]:
        """What is given, by the name of the variant's field."""
        return self.model_dump(exclude_none=True)


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
    gradient_accumulation: int = Field(1, ge=1)
    """Parts into which a replica cuts its share of a batch to save memory."""


class ScheduleConfig(Section):
    """How the learning rate moves."""

    name: Literal["constant", "plateau", "one_cycle"] = "constant"
    """Plateau divides by ten when the test error stalls (Krizhevsky 2012, section 5)."""
    warmup: float = Field(0.3, gt=0, lt=1)
    """one_cycle: the part of the run in which the rate rises."""
    patience: int = Field(3, ge=0)
    """plateau: evaluations without a better error before the division."""


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

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    """Of the run's folder; where it is taken, -2, -3, … is appended."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Of the weights, the order of the images, augmentation and dropout."""
    variant: Literal["paper", "half", "d2l", "torchvision", "caffe", "caffenet", "zfnet"] = "paper"
    """The net: a row of model/variants.py."""
    towers: int = Field(2, ge=1)
    """Parallel streams of the net; 1 is the single-stream form."""
    init: Literal["released", "text", "xavier", "he", "default"] | None = None
    """Of the weights, see model/initialization.py; the variant's own, if not given."""
    weights: Path | None = None
    """A checkpoint, a run's folder or a file of weights to start from, in place of those. Of
    data with another number of classes, fc8 begins anew."""
    placement: Literal["auto", "local", "split"] = "auto"
    """Towers in one process, or one on each rank; auto splits if the ranks divide into towers."""
    batch_size: int = Field(128, gt=0)
    """Images per optimiser step over all replicas."""
    epochs: int = Field(1, gt=0)
    """Times that every training image is seen."""
    max_steps: int | None = Field(None, gt=0)
    """Fewer optimiser steps than the epochs have."""
    precision: Literal["fp64", "fp32", "bf16", "fp16"] = "fp32"
    """Of the forward and backward pass; weights are fp32, or fp64, to compare placements."""
    compress_gradients: bool = False
    """Average the replicas' gradients as bf16: half the bytes, fewer digits."""
    overlap_communication: bool = True
    """Let activations travel while the layer that reads them works; false waits for each."""
    channels_last: bool = True
    """Memory layout of the convolutions."""
    compile: bool = False
    """Use torch.compile where it works."""
    checkpoint_every: int = Field(500, gt=0)
    """Steps between checkpoints; the end of the run has one too."""
    keep_checkpoints: int = Field(2, ge=0)
    """How many of the newest are kept; with 0 none is written."""
    keep_best: bool = True
    """Also save when an evaluation is the best so far, and keep that."""
    write_errors: Literal["stop", "continue"] = "stop"
    """Whether a run ends when the disk refuses a checkpoint or metrics, or says so and goes on."""
    compare_ranks_every: int = Field(100, gt=0)
    """Steps between checks that equal weights are equal on all ranks, and that none is slow."""
    evaluate_every: int | None = Field(None, gt=0)
    """Steps between evaluations, beside those at the end of each epoch and of the run."""
    timeout: float = Field(100.0, gt=0)
    """Seconds that a rank waits for the others; what rank 0 does for all may take longer."""
    runs: Path = Path("runs")
    """Where the runs' folders are made."""
    net: NetConfig = NetConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    tracking: TrackingConfig = TrackingConfig()

    @property
    def form(self) -> Variant:
        """The net: the variant's row, with what ``net`` changes."""
        return net_form(self.variant, self.net.changes)

    @model_validator(mode="after")
    def _possible(self) -> "Config":
        for width in (*self.form.convolutions, self.form.hidden):
            if width % self.towers:
                raise ValueError(f"{self.towers} towers do not divide a width of {width}")
        if self.data.resize is not None and self.data.resize < self.data.size:
            raise ValueError("data.resize must be at least data.size")
        if self.data.name == "image_folder" and self.data.folder is None:
            raise ValueError("data.folder must name the folder with train/ and test/")
        if self.data.name == "packed" and self.data.folder is None:
            raise ValueError("data.folder must name the folder that prepare.py made")
        if self.data.color_noise and self.data.color_covariance is None:
            raise ValueError("data.color_noise needs data.color_covariance, which prepare.py tells")
        if self.optimizer.gradient_accumulation > self.batch_size:
            raise ValueError("optimizer.gradient_accumulation must be at most batch_size")
        if self.optimizer.nesterov and not self.optimizer.momentum:
            raise ValueError("optimizer.nesterov needs a momentum above 0")
        return self
