"""What determines a run's numbers: frozen dataclasses with their checks, and the presets.

Where a run is written and how often it reports is not here, for it changes no number.
Imports no JAX, so that a command line can answer at once.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cgan_jax.errors import ConfigError

LOSS_NAMES = ("least_squares", "non_saturating", "hinge")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of the two networks. The defaults are the report's.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    n_classes: int = 10
    latent_dim: int = 100
    label_dim: int | None = None
    """Width of the label embeddings; None for `n_classes`, as in the report."""
    img_size: int = 28
    """Height and width of the images in pixels."""
    channels: int = 1
    generator_widths: tuple[int, ...] = (128, 256, 512, 1024)
    discriminator_widths: tuple[int, ...] = (512, 512, 512)
    negative_slope: float = 0.2
    """Slope of LeakyReLU below zero."""
    dropout_rate: float = 0.4
    bn_epsilon: float = 0.8
    """Added to the variance in BatchNorm. 0.8 is the report's, and not a misprint here."""
    bn_momentum: float = 0.9
    """What the running statistics keep of themselves at each step: 1 - PyTorch's 0.1."""

    def __post_init__(self) -> None:
        for name in ("n_classes", "latent_dim", "img_size", "channels"):
            _whole(self, name, at_least=1)
        if self.label_dim is not None:
            _whole(self, "label_dim", at_least=1)
        for name in ("generator_widths", "discriminator_widths"):
            widths = getattr(self, name)
            if isinstance(widths, list):  # as JSON has it
                widths = tuple(widths)
                object.__setattr__(self, name, widths)
            good = isinstance(widths, tuple) and all(_is_whole(w) and w > 0 for w in widths)
            if not good or not widths:
                raise ConfigError(f"{name} must be whole numbers above 0, not {widths!r:.50}")
        _number(self, "negative_slope", 0, 1, "in [0, 1]")
        _number(self, "dropout_rate", 0, math.nextafter(1, 0), "in [0, 1)")
        _number(self, "bn_epsilon", math.nextafter(0, 1), math.inf, "above 0")
        _number(self, "bn_momentum", 0, math.nextafter(1, 0), "in [0, 1)")


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam's settings, for both networks. The defaults are the report's.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    lr: float = 2e-4
    b1: float = 0.5
    b2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _number(self, "lr", math.nextafter(0, 1), math.inf, "above 0")
        _number(self, "b1", 0, math.nextafter(1, 0), "in [0, 1)")
        _number(self, "b2", 0, math.nextafter(1, 0), "in [0, 1)")
        _number(self, "eps", math.nextafter(0, 1), math.inf, "above 0")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a training run's numbers depend on.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    dataset: str = "fashion_mnist"
    epochs: int = 200
    batch_size: int = 64
    seed: int = 0
    """In [0, 2**32)."""
    loss: str = "least_squares"
    """A name in `cgan_jax.losses.LOSSES`."""
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        if not isinstance(self.dataset, str):
            raise ConfigError(f"dataset must be a name, not {self.dataset!r}")
        _whole(self, "epochs", at_least=1)
        _whole(self, "batch_size", at_least=2, why="BatchNorm needs two images")
        _whole(self, "seed", at_least=0)
        if self.seed >= 2**32:
            raise ConfigError(f"seed must be below 2**32, not {self.seed}")
        if self.loss not in LOSS_NAMES:
            raise ConfigError(f"loss must be one of {', '.join(LOSS_NAMES)}, not {self.loss!r}")
        for name, kind in (("model", ModelConfig), ("optimizer", OptimizerConfig)):
            if not isinstance(getattr(self, name), kind):
                value = getattr(self, name)
                raise ConfigError(f"{name} must be a {kind.__name__}, not {value!r:.50}")

    def check_data(self, n_images: int) -> None:
        """Check the batch size against the number of training images.

        Raises:
            ConfigError: a batch does not fit, or an epoch's last batch would be a single image.
        """
        if self.batch_size > n_images:
            raise ConfigError(
                f"batch_size must be at most the {n_images} training images, not {self.batch_size}"
            )
        if n_images % self.batch_size == 1:
            raise ConfigError(
                f"batch_size {self.batch_size} leaves a last batch of one image of {n_images}, "
                "and BatchNorm needs two: choose another"
            )


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """A configuration as JSON has it."""
    return dataclasses.asdict(config)


def from_dict(values: Any) -> TrainConfig:
    """The configuration that `to_dict` wrote. Fields that are missing take their defaults.

    Raises:
        ConfigError: a field is unknown or its value is impossible.
    """
    values = dict(_fields(values, TrainConfig, "configuration"))
    for name, kind in (("model", ModelConfig), ("optimizer", OptimizerConfig)):
        if name in values:
            values[name] = kind(**_fields(values[name], kind, name))
    return TrainConfig(**values)


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """The fields in which two configurations differ, as `optimizer.lr: 0.0002 -> 0.001`."""
    before, after = dict(leaves(old)), dict(leaves(new))
    return [f"{k}: {before[k]} -> {after[k]}" for k in before if before[k] != after[k]]


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A configuration's settings one by one, as `("optimizer.lr", 0.0002)`."""
    for part in dataclasses.fields(config):
        value = getattr(config, part.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{part.name}.")
        else:
            yield prefix + part.name, value


def _fields(values: Any, kind: type, where: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} must be a table of settings, not {values!r:.50}")
    known = [f.name for f in dataclasses.fields(kind)]
    for name in values:
        if name not in known:
            raise ConfigError(
                f"unknown setting {name!r:.50} in {where}; it has {', '.join(known)}.\n"
                "It may come from a newer cgan_jax."
            )
    return values


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(config: Any, name: str, *, at_least: int, why: str = "") -> None:
    value = getattr(config, name)
    if not _is_whole(value) or value < at_least:
        reason = f" ({why})" if why else ""
        raise ConfigError(
            f"{name} must be a whole number of at least {at_least}{reason}, not {value!r:.50}"
        )


def _number(config: Any, name: str, low: float, high: float, text: str) -> None:
    value = getattr(config, name)
    if not (_is_whole(value) or isinstance(value, float)):
        raise ConfigError(f"{name} must be a number {text}, not {value!r:.50}")
    if not (low <= value <= high and math.isfinite(value)):
        raise ConfigError(f"{name} must be a finite number {text}, not {value}")


PRESETS: Mapping[str, TrainConfig] = {"report": TrainConfig()}
"""Named configurations; `report` is the conditional GAN of the course report."""
