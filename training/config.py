"""The schema of a run's configuration: every setting with its type, its default and its help.

``--help`` prints the string below each setting. ``Changeable`` and ``PreparesImages`` mark what a
setting means beyond its value (see ``training.fields``).
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from common.errors import ReportedError
from data import Split
from data.datasets import DATASETS, Dataset, open_dataset
from distributed.plan import PLACEMENTS, Plan, Wish, plan_mesh
from distributed.schemes import SCHEMES
from model.alexnet import SMALLEST_SIDE
from model.initialization import SCHEMES as INITIAL_VALUES
from model.layers import ACTIVATIONS
from model.variants import VARIANTS, Meeting, Variant, net_form
from training.fields import (
    Changeable,
    Count,
    Fraction,
    HomePath,
    OneOf,
    Positive,
    PreparesImages,
    Section,
)
from training.optimization import OPTIMIZERS, SCHEDULES
from training.precision import AUTO, PRECISIONS, chosen_precision

LARGEST_SIDE = 4096
"""In pixels; to resize the maps of such an image takes 1 GB (``model.alexnet.resize``)."""


class DataConfig(Section):
    """The images, and how they become the network's input."""

    name: Annotated[str, OneOf(DATASETS)] = "fashion_mnist"
    """The data set: Fashion-MNIST, folders named after their classes, the same packed by
    prepare.py, or generated images (patterns, textures)."""
    folder: Changeable[HomePath | None] = None
    """The folder with the files. Without one, Fashion-MNIST is looked for, then downloaded."""
    size: PreparesImages[int] = Field(224, ge=SMALLEST_SIDE, le=LARGEST_SIDE)
    """Side of the network's input, in pixels."""
    resize: PreparesImages[int | None] = Field(None, le=LARGEST_SIDE)
    """Resize images to this side, then crop them to size. null: to size itself."""
    mean: PreparesImages[float | list[float]] = 0.0
    """Subtract this from the pixels (0 to 255); one number, or one for each channel."""
    mean_image: PreparesImages[Changeable[HomePath | None]] = None
    """Subtract the centre of this NumPy file (resize, resize, channels) instead of mean."""
    std: PreparesImages[Positive | list[Positive]] = 255.0
    """Then divide the pixels by this; one number, or one for each channel."""
    mirror: bool = False
    """Flip half of the training images left to right, at random."""
    color_noise: float = Field(0.0, ge=0)
    """Shift the colors of training images along the principal components of color_covariance, by
    normal multiples of this part of their standard deviations (Krizhevsky 2012, section 4.1: 0.1).
    """
    color_covariance: list[list[float]] | None = None
    """Covariance of the channels over all training pixels; prepare.py prints it."""
    test_views: PreparesImages[Literal[1, 2, 10]] = 1
    """Views of a test image, whose probabilities are averaged. 1: the centre crop. 2: also its
    mirror image. 10: also the four corner crops and theirs."""
    held_out: int = Field(0, ge=0, le=10**9)
    """Keep this many training images, drawn at random, out of training, and test on them instead of
    the test set: to choose settings by."""
    train_images: int | None = Field(None, gt=0, le=10**9)
    """Train on this many of the other training images only, drawn at random. null: on all."""
    workers: Changeable[int] = Field(0, ge=0, le=256)
    """Reading threads of each rank, for image folders and packed images."""
    stored_size: PreparesImages[int] = Field(256, gt=0, le=LARGEST_SIDE)
    """Side of decoded or generated images before they are resized, in pixels; that of packed images
    is prepare.py's --size."""
    synthetic_length: int = Field(2048, gt=0, le=10**8)
    """Number of generated training images."""

    @property
    def image_side(self) -> int:
        """Side of the data set's images before they are resized, in pixels."""
        return DATASETS[self.name].side or self.stored_size

    def open(self, split: Split) -> Dataset:
        """Open one split of the data set.

        Raises ReportedError as ``open_dataset`` does, or if packed images have another size.
        """
        size, length = self.stored_size, self.synthetic_length
        found = open_dataset(self.name, split, self.folder, size, length)
        if found.height != self.image_side:
            raise ReportedError(
                f"the images in {self.folder} have {found.height} px, and data.stored_size is "
                f"{size}: set data.stored_size={found.height}"
            )
        return found


class NetConfig(Section):
    """Changes to the variant's row in model/variants.py. null: as the row has it."""

    local_response_norm: bool | None = None
    """Normalise after conv1 and conv2 (Krizhevsky 2012, section 3.3)."""
    activation: Annotated[str, OneOf(ACTIVATIONS)] | None = None
    """The function after each of conv1 to fc7 (section 3.1)."""
    pool: Literal[2, 3] | None = None
    """Side of the pooling windows. Their stride is 2 pixels, so windows of 3 overlap (section 3.4).
    """
    dropout: tuple[Fraction, Fraction, Fraction] | None = None
    """Dropout of fc6's inputs, fc6's outputs and fc7's outputs (section 4.2)."""
    hidden: Count | None = None
    """Units of fc6 and of fc7, which hold nine tenths of the weights."""
    meet: tuple[Meeting, ...] | None = None
    """The layers that read every tower. With [] the towers meet in the logits only."""

    @property
    def changes(self) -> dict[str, Any]:
        """The settings that are given; the keys are fields of ``Variant``."""
        return self.model_dump(exclude_none=True)


class OptimizerConfig(Section):
    """The optimiser, and the loss that it minimises."""

    name: Annotated[str, OneOf(OPTIMIZERS)] = "sgd"
    """The optimiser. lars: SGD with a rate for each layer, for large batches (You 2017). Each reads
    its own settings below and ignores the others'."""
    learning_rate: float = Field(0.01, gt=0)
    """The highest learning rate of the schedule."""
    weight_decay: float = Field(5e-4, ge=0)
    """Decay of weights and biases. sgd, lars: added to the gradient, times the weight. adamw:
    decoupled, multiplied by the learning rate."""
    momentum: Fraction = 0.9
    """sgd, lars: momentum. The learning rate multiplies the velocity, as in PyTorch."""
    nesterov: bool = False
    """sgd, lars: use Nesterov's momentum."""
    trust_coefficient: float = Field(0.001, gt=0)
    """lars: a layer's step at a learning rate of 1, over the norm of its weights."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """adamw: decay of the running means of the gradient and of its square."""
    eps: float = Field(1e-8, gt=0)
    """adamw: added to the root of the mean square."""
    label_smoothing: Fraction = 0.0
    """Probability that the target spreads evenly over all classes."""
    gradient_accumulation: Changeable[Count] = 1
    """Compute each local batch in this many parts, one after the other, to save memory."""
    classifier_learning_rate: float | None = Field(None, gt=0)
    """The highest learning rate of the fully connected layers. null: learning_rate."""
    classifier_updates: Literal["step", "turn"] = "step"
    """turn: in a hybrid, update the fully connected layers after each turn of classifier_scheme b
    or c, with the mean gradient of its images (the variable batch of Krizhevsky 2014)."""


class ScheduleConfig(Section):
    """The learning rate over the run."""

    name: Annotated[str, OneOf(SCHEDULES)] = "constant"
    """constant. plateau: divide by ten when the test error stalls (Krizhevsky 2012, section 5).
    one_cycle: rise, then fall to zero, both along a cosine. cosine: rise along a line, then fall to
    zero along a cosine."""
    warmup: Fraction = 0.3
    """one_cycle, cosine: the part of the run in which the rate rises, as a fraction."""
    patience: int = Field(3, ge=0, le=10**9)
    """plateau: evaluations without a better error before the rate is divided."""


class TrackingConfig(Section):
    """Weights & Biases."""

    mode: Changeable[Literal["auto", "online", "offline", "disabled"]] = "auto"
    """auto: as wandb is set (WANDB_MODE, wandb offline, …); else online if there is an API key,
    else offline."""
    project: Changeable[str | None] = None
    """The project that the run is logged to. null: WANDB_PROJECT, or alexnet."""
    group: Changeable[str | None] = None
    """The group of runs to compare with. null: WANDB_RUN_GROUP, or the run's name."""


class Config(Section):
    """Everything that defines a run."""

    name: Changeable[str] = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    """Name of the run's folder. If it is taken, -2, -3, … is appended."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the initial weights, the order of the images, augmentation and dropout."""
    variant: Annotated[str, OneOf(VARIANTS)] = "paper"
    """The net: a row of model/variants.py."""
    towers: Count = 2
    """Parallel streams of the net. 1: the single-stream net."""
    init: Annotated[str, OneOf(INITIAL_VALUES)] | None = None
    """Initialisation of the weights, see model/initialization.py. null: the variant's own."""
    weights: HomePath | None = None
    """Start from these weights: a checkpoint, a run's folder or a file. If the data have another
    number of classes, fc8 is initialised instead."""
    placement: Changeable[Annotated[str, OneOf(PLACEMENTS)]] = "auto"
    """local, ddp: the whole net on each rank. split: a copy of the net over several ranks, one
    tower on each. hybrid: the convolutions whole on each rank, the fully connected layers divided
    over ranks (Krizhevsky 2014). split+hybrid: the convolutions split, too. auto: split if
    there are two or more towers and their number divides that of the ranks, else ddp."""
    shards: Changeable[Count | None] = None
    """split: ranks that share a copy of the net; split+hybrid: of the convolutions. null: one for
    each tower, if the number of ranks is a multiple of the towers, else all, whose number must then
    divide the towers. With towers: 1, null is all ranks."""
    classifier_ranks: Changeable[Count | None] = None
    """hybrid, split+hybrid: ranks that divide a copy of the fully connected layers, such as those
    of one node. null: all ranks."""
    classifier_scheme: Changeable[Annotated[str, OneOf(SCHEMES)]] = "a"
    """hybrid, split+hybrid: the classifier works on all images at once (a), on those of one replica
    after the other (b), or on an equal part of every replica's in each turn (c)."""
    batch_size: Count = 128
    """Global batch: images per optimiser step over all ranks."""
    epochs: float = Field(1, gt=0, le=10**9)
    """Number of passes over the training images; the last may be a part of one, as in 2.5."""
    max_steps: Count | None = None
    """Stop after this many optimiser steps. null: after the epochs."""
    precision: Annotated[
        str, OneOf({AUTO: None, **PRECISIONS}), AfterValidator(chosen_precision)
    ] = "fp32"
    """Precision of the forward and the backward pass. Weights are fp32, or fp64 with fp64, which is
    meant for comparing placements. auto: bf16, or fp32 on a CPU that only emulates bf16."""
    compress_gradients: bool = False
    """Send gradients between replicas as bf16: half the bytes, fewer digits."""
    share_devices: Changeable[bool] = False
    """Have several ranks use one GPU, in turn, where there are fewer GPUs than ranks. Ranks then
    communicate by gloo, through the host: to try a placement, not to be fast. A CPU is shared
    anyway."""
    overlap_communication: Changeable[bool] = True
    """Send activations while the layer that reads them computes. false: wait for them first."""
    channels_last: Changeable[bool] = True
    """Use the channels-last memory layout in the convolutions."""
    compile: Changeable[bool] = False
    """Use torch.compile if there is a C++ compiler."""
    deterministic: Changeable[bool] = False
    """Have GPUs give the same digits in every run, at some cost in speed. CPUs always do."""
    checkpoint_every: Changeable[Count] = 500
    """Steps between checkpoints. The end of the run has one too."""
    keep_checkpoints: Changeable[int] = Field(2, ge=0, le=10**9)
    """Number of newest checkpoints to keep. 0: write none."""
    keep_best: Changeable[bool] = True
    """Also save a checkpoint after the best evaluation so far, and keep it."""
    write_errors: Changeable[Literal["stop", "continue"]] = "stop"
    """stop: end the run if the disk refuses a checkpoint or metrics. continue: warn and go on."""
    compare_ranks_every: Changeable[Count] = 100
    """Steps between checks that replicated weights are equal on all ranks and no rank is slow."""
    evaluate_every: Count | None = None
    """Steps between evaluations; there is one at the end, too. null: one after each epoch."""
    timeout: Changeable[float] = Field(100.0, gt=0)
    """Seconds that a rank waits for the others. What rank 0 does for all may take longer."""
    runs: Changeable[HomePath] = Path("runs")
    """The folder that holds the runs' folders."""
    net: NetConfig = NetConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    tracking: TrackingConfig = TrackingConfig()

    def plan(self, ranks: int) -> Plan:
        """Where the net lives on ``ranks``; raises ReportedError if the numbers do not allow it."""
        wish = Wish(ranks, self.towers, self.shards, self.classifier_ranks)
        plan = plan_mesh(wish, self.placement, self.form)
        if self.optimizer.classifier_updates == "turn" and plan.feeds == 1:
            raise ReportedError(
                f"optimizer.classifier_updates=turn needs a hybrid, and placement {self.placement} "
                f"on {ranks} ranks is none: set placement=hybrid"
            )
        return plan

    @property
    def form(self) -> Variant:
        """The net: the variant's row with the changes of ``net``."""
        return net_form(self.variant, self.net.changes)

    @model_validator(mode="after")
    def _check_together(self) -> "Config":
        for layer, width in self.form.widths.items():
            if width % self.towers:
                raise ValueError(
                    f"{self.towers} towers do not divide the {width} units of {layer}: change "
                    "towers or net.hidden"
                )
        for key, placements in {
            "shards": ("split", "split+hybrid"),
            "classifier_ranks": ("hybrid", "split+hybrid"),
        }.items():
            if getattr(self, key) is not None and self.placement not in placements:
                raise ValueError(f"{key} needs placement={' or '.join(placements)}")
        data, optimizer = self.data, self.optimizer
        if data.resize is not None and data.resize < data.size:
            raise ValueError("data.resize must be at least data.size")
        if data.folder is None and (needed := DATASETS[data.name].folder):
            raise ValueError(f"data.folder must name {needed}")
        if data.color_noise and data.color_covariance is None:
            raise ValueError("data.color_noise needs data.color_covariance: prepare.py prints it")
        if optimizer.gradient_accumulation > self.batch_size:
            raise ValueError("optimizer.gradient_accumulation must be at most batch_size")
        if optimizer.classifier_updates == "turn":
            if self.classifier_scheme == "a":
                raise ValueError("optimizer.classifier_updates=turn needs classifier_scheme b or c")
            if optimizer.gradient_accumulation > 1:
                raise ValueError(
                    "optimizer.classifier_updates=turn needs optimizer.gradient_accumulation=1"
                )
            if PRECISIONS[self.precision].scales_loss:
                raise ValueError(
                    "optimizer.classifier_updates=turn needs a precision without loss scaling: "
                    "bf16, fp32 or fp64"
                )
        if optimizer.nesterov and not optimizer.momentum:
            raise ValueError("optimizer.nesterov needs a momentum above 0")
        return self
