"""What determines a run's numbers: frozen dataclasses with their checks.

The named recipes are in presets.py. Where a run is written and how often it reports is not here,
for it changes no number. Imports no JAX, so that a command line can answer at once.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cgan_jax.checks import (
    BelowOne,
    Count,
    NotNegative,
    Positive,
    Range,
    Seed,
    check_fields,
    did_you_mean,
    short_repr,
    with_article,
    wrong_field,
)
from cgan_jax.errors import ConfigError
from cgan_jax.model_config import (
    DEFAULT_KIND,
    INT32_MAX,
    MODEL_KINDS,
    BaseModelConfig,
    MLPConfig,
    ModelConfig,
    ResidualConfig,
    SNGANConfig,
    kind_of,
)

if TYPE_CHECKING:
    from cgan_jax.data import Dataset

__all__ = [
    "DEFAULT_KIND",
    "MODEL_KINDS",
    "AverageConfig",
    "BaseModelConfig",
    "MLPConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PenaltyConfig",
    "ResidualConfig",
    "SNGANConfig",
    "TrainConfig",
    "differences",
    "from_dict",
    "leaves",
    "model_from_dict",
    "model_to_dict",
    "to_dict",
]

LossName = Literal["least_squares", "non_saturating", "hinge", "relativistic", "wasserstein"]
PenaltyName = Literal["none", "r1", "r2", "r1_r2", "wgan_gp"]
ScheduleName = Literal["linear", "cosine", "cooldown"]
MatmulPrecision = Literal["default", "float32"]
AUGMENTATIONS = ("color", "translation", "cutout")  # the words of an augmentation policy


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam's settings. The defaults are the report's.

    Attributes:
        lr: learning rate, above 0.
        b1: decay of the gradient's running mean, in [0, 1).
        b2: decay of the gradient's running square, in [0, 1).
        eps: added to the root of the running square, above 0.
        lr_end: the learning rate at the end of training, at least 0; None for a constant one. It
            stays as it is when `lr` is changed.
        b2_end: the same for b2, in [0, 1).
        schedule: the curve from `lr` to `lr_end` and from `b2` to `b2_end`. `cooldown` keeps the
            first value for four fifths of the training, then follows a cosine.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    lr: Positive = 2e-4
    b1: BelowOne = 0.5
    b2: BelowOne = 0.999
    eps: Positive = 1e-8
    lr_end: NotNegative | None = None
    b2_end: BelowOne | None = None
    schedule: ScheduleName = "cosine"

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def is_scheduled(self) -> bool:
        """Whether a setting changes during training."""
        return self.lr_end is not None or self.b2_end is not None


@dataclass(frozen=True)
class PenaltyConfig:
    """A penalty on the gradient of D's score with respect to its input images.

    See `cgan_jax.training.penalties`.

    Attributes:
        kind: `r1` on real images, `r2` on fakes, `r1_r2` on both, `wgan_gp` on points between them.
        gamma: its weight, at least 0. R1 and R2 are the squared norm times gamma / 2, WGAN-GP is
            multiplied by gamma, usually 10.
        gamma_end: the weight at the end of training, reached on a cosine; None for a constant one.
        every: steps from one penalty to the next, at least 1; each is multiplied by this number
            (lazy regularization).

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    kind: PenaltyName = "none"
    gamma: NotNegative = 1.0
    gamma_end: NotNegative | None = None
    every: Count = 1

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class AverageConfig:
    """The running average of the generator; see `cgan_jax.training.averaging`.

    Attributes:
        keep: keep an average of the generator, which is then sampled, measured and exported.
        half_life: images after which the weight of a generator in the average has halved, above 0.
        ramp: the half-life is at most this share of the images seen so far, above 0, so that the
            first generators are forgotten soon; None for no such bound.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    keep: bool = False
    half_life: Positive = 40_000
    ramp: Positive | None = 0.05

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a training run's numbers depend on. The defaults are the report's.

    Attributes:
        dataset: name of the data.
        epochs: passes over the training images; more make a run longer.
        batch_size: images per step, at least 2.
        seed: of all randomness (weights, data order, noise), in [0, 2**32).
        loss: adversarial loss; a name in `cgan_jax.LOSSES`.
        disc_steps: updates of the discriminator for each of the generator, each on a batch of its
            own; a step takes all these batches. 5 in WGAN-GP.
        balance: draw each class equally often, however many images it has; an epoch keeps its
            number of steps, so that images of large classes come less than once, and of small ones
            more often.
        augment: policy of differentiable augmentation: some of `color`, `translation` and `cutout`,
            separated by commas; empty for none.
        background: the pixel value that augmentation fills in, in [-1, 1]; -1 is black.
        schedule_steps: steps over which learning rate, beta2 and the penalty's weight change; None
            for all steps of the run, which `for_data` sets. A run that is made longer keeps their
            last values.
        matmul_precision: how products and convolutions of float32 numbers are computed in training;
            `default` is JAX's choice for the device, on NVIDIA GPUs since Ampere TensorFloat-32
            (10 bits of mantissa in the factors, float32 sums); `float32` rounds no factor. A CPU
            always computes them in float32.
        model: kind, sizes and constants of the networks: one of `MODEL_KINDS`.
        optimizer: Adam's settings for both networks.
        disc_optimizer: Adam's settings for the discriminator, if they differ; otherwise None.
        penalty: the penalty on the discriminator's gradient.
        average: the running average of the generator.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    dataset: str = "fashion_mnist"
    epochs: Count = 200
    batch_size: Annotated[int, Range(2)] = 64  # BatchNorm needs two images
    seed: Seed = 0
    loss: LossName = "least_squares"
    disc_steps: Count = 1
    balance: bool = False
    augment: str = ""
    background: Annotated[float, Range(-1, 1, "in [-1, 1]")] = -1.0
    schedule_steps: Annotated[int, Range(1, INT32_MAX)] | None = None
    matmul_precision: MatmulPrecision = "default"
    model: BaseModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    disc_optimizer: OptimizerConfig | None = None
    penalty: PenaltyConfig = field(default_factory=PenaltyConfig)
    average: AverageConfig = field(default_factory=AverageConfig)

    def __post_init__(self) -> None:
        if not isinstance(self.dataset, str):
            raise wrong_field(self, "dataset", "a name")
        check_fields(self)
        self._check_augment()
        _check_part(self, "model", tuple(MODEL_KINDS.values()))
        _check_part(self, "optimizer", (OptimizerConfig,))
        _check_part(self, "disc_optimizer", (OptimizerConfig, type(None)))
        _check_part(self, "penalty", (PenaltyConfig,))
        _check_part(self, "average", (AverageConfig,))
        if self.disc_optimizer == self.optimizer:
            object.__setattr__(self, "disc_optimizer", None)  # one way to say the same

    def _check_augment(self) -> None:
        given = self.augment
        policy = given.split(",") if given and isinstance(given, str) else []
        unknown = [word for word in policy if word not in AUGMENTATIONS]
        if unknown or not isinstance(given, str):
            near = did_you_mean(unknown[0], AUGMENTATIONS) if unknown else ""
            raise ConfigError(
                f"augment must be some of {', '.join(AUGMENTATIONS)}, separated by commas, "
                f"not {short_repr(given)}{near}\nOmit it for the default, no augmentation."
            )

    @property
    def images_per_step(self) -> int:
        """The real images of a step: a batch for each update of the discriminator."""
        return self.batch_size * self.disc_steps

    @property
    def has_schedules(self) -> bool:
        """Whether a setting changes during training, so that its length matters."""
        penalty = self.penalty.kind != "none" and self.penalty.gamma_end is not None
        disc = self.disc_optimizer or self.optimizer
        return self.optimizer.is_scheduled or disc.is_scheduled or penalty

    def for_data(self, dataset: "Dataset") -> "TrainConfig":
        """This configuration with the name, the classes and the image size of some data.

        Where something changes during training, their number gives `schedule_steps` too.

        Raises:
            ConfigError: their images do not fit the networks' stages, or are too large.
        """
        _, height, width, channels = dataset.images.shape
        n_classes = len(dataset.class_names)
        sizes = {"n_classes": n_classes, "img_size": (height, width), "channels": channels}
        model = dataclasses.replace(self.model, **sizes)
        config = dataclasses.replace(self, dataset=dataset.name, model=model)
        return config.with_schedule_steps(len(dataset))

    def with_schedule_steps(self, n_images: int) -> "TrainConfig":
        """This configuration with `schedule_steps`, if it lacks them and something changes."""
        if not self.has_schedules or self.schedule_steps:
            return self
        steps = self.epochs * -(-n_images // self.images_per_step)
        return dataclasses.replace(self, schedule_steps=steps)

    def check_data(self, n_images: int) -> None:
        """Check the batch size and the epochs against the number of training images.

        Raises:
            ConfigError: a batch does not fit, an epoch's last batch would be a single image, or
                the run would have more steps than can be counted.
        """
        if self.batch_size > n_images:
            raise ConfigError(
                f"batch_size must be at most the {n_images} training images, "
                f"not {short_repr(self.batch_size)}\n"
                "Give a smaller one with --batch-size (batch_size=)."
            )
        if self.images_per_step > n_images:
            raise ConfigError(
                f"disc_steps {self.disc_steps} takes {self.images_per_step} images in a step, of "
                f"{n_images}\nexpected at most all of them\nGive fewer, or smaller batches."
            )
        if n_images % self.images_per_step == 1:
            raise ConfigError(
                f"batch_size {self.batch_size} leaves a last batch of one image of {n_images}\n"
                "expected at least two, which BatchNorm needs\nGive one more or one fewer."
            )
        most = INT32_MAX // -(-n_images // self.images_per_step)
        if self.epochs > most:
            raise ConfigError(
                f"epochs must be at most {most} with {n_images} images in batches of "
                f"{self.batch_size}, not {short_repr(self.epochs)}\nGive fewer."
            )


PARTS: dict[str, type] = {
    "optimizer": OptimizerConfig,
    "disc_optimizer": OptimizerConfig,
    "penalty": PenaltyConfig,
    "average": AverageConfig,
}
"""The parts of a TrainConfig beside its model."""


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """A configuration as JSON has it, without those of the later settings that are not used."""
    values = dataclasses.asdict(config) | {"model": model_to_dict(config.model)}
    if config.disc_optimizer is None:
        del values["disc_optimizer"]
    for later in (
        "balance",
        "matmul_precision",
        "disc_steps",
    ):  # so that the file is that of earlier versions
        if values[later] == getattr(TrainConfig, later):
            del values[later]
    return values


def from_dict(values: Any) -> TrainConfig:
    """The configuration that `to_dict` wrote. Missing fields take their defaults.

    Raises:
        ConfigError: a field or a kind is unknown, or a value is impossible.
    """
    values = dict(_fields(values, TrainConfig, "configuration"))
    if "model" in values:
        values["model"] = model_from_dict(values["model"])
    for name, part in PARTS.items():
        if values.get(name) is not None:
            values[name] = part(**_fields(values[name], part, name))
    return TrainConfig(**values)


def model_to_dict(model: BaseModelConfig) -> dict[str, Any]:
    """A model's configuration as JSON has it, with its kind unless that is the report's."""
    kind = kind_of(model)
    return dataclasses.asdict(model) | ({} if kind == DEFAULT_KIND else {"kind": kind})


def model_from_dict(values: Any) -> BaseModelConfig:
    """The configuration that `model_to_dict` wrote. Missing fields take their defaults.

    Raises:
        ConfigError: a field or the kind is unknown, or a value is impossible.
    """
    name = DEFAULT_KIND
    if isinstance(values, Mapping) and "kind" in values:
        name = values["kind"]
        values = {key: value for key, value in values.items() if key != "kind"}
    if not isinstance(name, str) or name not in MODEL_KINDS:
        raise ConfigError(
            f"unknown kind of model {short_repr(name)}\n"
            f"expected one of {', '.join(MODEL_KINDS)}\n"
            "Correct it. It may come from a newer cgan_jax."
        )
    return MODEL_KINDS[name](**_fields(values, MODEL_KINDS[name], "model"))


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """The fields in which two configurations differ, as `optimizer.lr: 0.0002 -> 0.001`."""
    if type(old.model) is not type(new.model):
        return [f"model: {kind_of(old.model)} -> {kind_of(new.model)}"]
    before, after = dict(leaves(old)), dict(leaves(new))
    if old.disc_optimizer or new.disc_optimizer:
        for settings, config in ((before, old), (after, new)):
            settings.pop("disc_optimizer", None)
            settings |= leaves(config.disc_optimizer or config.optimizer, "disc_optimizer.")
    return [f"{k}: {before[k]} -> {after[k]}" for k in before if before[k] != after[k]]


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A configuration's settings one by one, as `("optimizer.lr", 0.0002)`.

    A `disc_optimizer` of None is one setting; otherwise its parts are settings.
    """
    for part in dataclasses.fields(config):
        value = getattr(config, part.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{part.name}.")
        else:
            yield prefix + part.name, value


def _fields(values: Any, kind: type, where: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{where} must be a table of settings, not {short_repr(values)}\n"
            "Omit it for the report's settings."
        )
    known = [f.name for f in dataclasses.fields(kind)]
    for name in values:
        if name not in known:
            raise ConfigError(
                f"unknown setting {short_repr(name)} in {where}\n"
                f"expected some of {', '.join(known)}\n"
                "Correct or remove it. It may come from a newer cgan_jax."
            )
    return values


def _check_part(config: TrainConfig, name: str, kinds: tuple[type, ...]) -> None:
    value = getattr(config, name)
    if not isinstance(value, kinds):
        names = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
        raise ConfigError(
            f"{name} must be {with_article(names)}, not {short_repr(value)}\n"
            "Omit it for the report's settings."
        )
