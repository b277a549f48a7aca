"""What determines a run's numbers: frozen dataclasses with their checks.

The named recipes are in presets.py. Where a run is written and how often it reports is not here,
for it changes no number. Imports no JAX, so that a command line can answer at once.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, get_args

from cgan_jax.checks import as_int, check_int_field, default_hint, short_repr, with_article
from cgan_jax.errors import ConfigError

if TYPE_CHECKING:
    from cgan_jax.data import Dataset

LossName = Literal["least_squares", "non_saturating", "hinge"]
INT32_MAX = 2**31 - 1  # most steps of a run, counted in an int32, and most weights of a network


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of the report's two networks. The defaults are the report's.

    Attributes:
        n_classes: number of classes.
        latent_dim: size of a latent point, the generator's noise.
        label_dim: width of the label embeddings; None for the number of classes, as in the report.
        img_size: height and width of the images in pixels.
        channels: 1 for grey images, 3 for colour.
        generator_widths: sizes of the generator's hidden layers; the first has no BatchNorm.
        discriminator_widths: sizes of the discriminator's hidden layers; the first has no dropout.
        negative_slope: slope of LeakyReLU below zero, in [0, 1].
        dropout_rate: share of the discriminator's activations that are dropped, in [0, 1).
        bn_epsilon: added to the variance in BatchNorm; the report's 0.8 is explained in
            `cgan_jax.Generator`.
        bn_momentum: decay of BatchNorm's running statistics, in [0, 1): 1 - PyTorch's momentum.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    n_classes: int = 10
    latent_dim: int = 100
    label_dim: int | None = None
    img_size: int = 28
    channels: int = 1
    generator_widths: tuple[int, ...] = (128, 256, 512, 1024)
    discriminator_widths: tuple[int, ...] = (512, 512, 512)
    negative_slope: float = 0.2
    dropout_rate: float = 0.4
    bn_epsilon: float = 0.8
    bn_momentum: float = 0.9

    def __post_init__(self) -> None:
        for name in ("n_classes", "latent_dim", "img_size", "channels"):
            _int_field(self, name, at_least=1)
        if self.label_dim is not None:
            _int_field(self, "label_dim", at_least=1)
        for name in ("generator_widths", "discriminator_widths"):
            given = getattr(self, name)
            listed = isinstance(given, tuple | list)  # a list, as JSON has it
            widths = tuple(as_int(width) or 0 for width in given) if listed else ()
            if not widths or min(widths) < 1:
                raise ConfigError(
                    f"{name} must be integers above 0, not {short_repr(given)}\n"
                    f"{default_hint(self, name)}"
                )
            object.__setattr__(self, name, widths)
        _number_field(self, "negative_slope", 0, 1, "in [0, 1]")
        _number_field(self, "dropout_rate", 0, math.nextafter(1, 0), "in [0, 1)")
        _number_field(self, "bn_epsilon", math.nextafter(0, 1), math.inf, "above 0")
        _number_field(self, "bn_momentum", 0, math.nextafter(1, 0), "in [0, 1)")
        self._check_sizes()

    def _check_sizes(self) -> None:
        label_dim = self.n_classes if self.label_dim is None else self.label_dim
        pixels = self.img_size**2 * self.channels
        gen = self.latent_dim + label_dim, *self.generator_widths, pixels
        disc = pixels + label_dim, *self.discriminator_widths, 1
        n_weights = max(sum(i * o for i, o in pairwise(widths)) for widths in (gen, disc))
        if n_weights + self.n_classes * label_dim > INT32_MAX:
            sizes = {name: size for name, size in leaves(self) if isinstance(size, int)}
            sizes |= {"generator_widths": max(self.generator_widths)}
            sizes |= {"discriminator_widths": max(self.discriminator_widths)}
            largest = max(sizes, key=lambda name: sizes[name])
            raise ConfigError(
                f"with {largest} {short_repr(sizes[largest])} a network has too many weights\n"
                f"expected at most {INT32_MAX:,}\nGive smaller sizes."
            )


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam's settings. The defaults are the report's.

    Attributes:
        lr: learning rate, above 0.
        b1: decay of the gradient's running mean, in [0, 1).
        b2: decay of the gradient's running square, in [0, 1).
        eps: added to the root of the running square, above 0.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    lr: float = 2e-4
    b1: float = 0.5
    b2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _number_field(self, "lr", math.nextafter(0, 1), math.inf, "above 0")
        _number_field(self, "b1", 0, math.nextafter(1, 0), "in [0, 1)")
        _number_field(self, "b2", 0, math.nextafter(1, 0), "in [0, 1)")
        _number_field(self, "eps", math.nextafter(0, 1), math.inf, "above 0")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a training run's numbers depend on. The defaults are the report's.

    Attributes:
        dataset: name of the data.
        epochs: passes over the training images; more make a run longer.
        batch_size: images per step, at least 2.
        seed: of all randomness (weights, data order, noise), in [0, 2**32).
        loss: adversarial loss; a name in `cgan_jax.LOSSES`.
        model: kind, sizes and constants of the networks: one of `MODEL_KINDS`.
        optimizer: Adam's settings for both networks.
        disc_optimizer: Adam's settings for the discriminator, if they differ; otherwise None.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    dataset: str = "fashion_mnist"
    epochs: int = 200
    batch_size: int = 64
    seed: int = 0
    loss: LossName = "least_squares"
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    disc_optimizer: OptimizerConfig | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.dataset, str):
            raise ConfigError(
                f"dataset must be a name, not {short_repr(self.dataset)}\n"
                f"{default_hint(self, 'dataset')}"
            )
        _int_field(self, "epochs", at_least=1)
        _int_field(self, "batch_size", at_least=2)  # BatchNorm needs two images
        _int_field(self, "seed", at_least=0, at_most=2**32 - 1)
        losses = get_args(LossName)
        if not isinstance(self.loss, str) or self.loss not in losses:
            raise ConfigError(
                f"loss must be one of {', '.join(losses)}, not {short_repr(self.loss)}\n"
                f"{default_hint(self, 'loss')}"
            )
        _check_part(self, "model", tuple(MODEL_KINDS.values()))
        _check_part(self, "optimizer", (OptimizerConfig,))
        _check_part(self, "disc_optimizer", (OptimizerConfig, type(None)))
        if self.disc_optimizer == self.optimizer:
            object.__setattr__(self, "disc_optimizer", None)  # one way to say the same

    def for_data(self, dataset: "Dataset") -> "TrainConfig":
        """This configuration with the name, the classes and the image size of some data.

        Raises:
            ConfigError: their images are not square, or too large for a network.
        """
        _, height, width, channels = dataset.images.shape
        if height != width:
            raise ConfigError(
                f"{dataset.name}: the images are {height}x{width}\nexpected square ones\n"
                "Crop or pad them."
            )
        n_classes = len(dataset.class_names)
        sizes = {"n_classes": n_classes, "img_size": height, "channels": channels}
        model = dataclasses.replace(self.model, **sizes)
        return dataclasses.replace(self, dataset=dataset.name, model=model)

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
        if n_images % self.batch_size == 1:
            raise ConfigError(
                f"batch_size {self.batch_size} leaves a last batch of one image of {n_images}\n"
                "expected at least two, which BatchNorm needs\nGive one more or one fewer."
            )
        most = INT32_MAX // -(-n_images // self.batch_size)
        if self.epochs > most:
            raise ConfigError(
                f"epochs must be at most {most} with {n_images} images in batches of "
                f"{self.batch_size}, not {short_repr(self.epochs)}\nGive fewer."
            )


DEFAULT_KIND = "report"
MODEL_KINDS: dict[str, type] = {DEFAULT_KIND: ModelConfig}
"""The kinds of model configuration, by the name that a run's `config.json` has for them.

Each is a frozen dataclass with at least the fields n_classes, latent_dim, img_size and channels;
`cgan_jax.models.networks` builds its networks. No name, as in early runs, means `report`.
"""


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """A configuration as JSON has it. What configurations of earlier versions lack is left out."""
    values = dataclasses.asdict(config)
    kind = next(name for name, kind in MODEL_KINDS.items() if type(config.model) is kind)
    if kind != DEFAULT_KIND:
        values["model"]["kind"] = kind
    if config.disc_optimizer is None:
        del values["disc_optimizer"]
    return values


def from_dict(values: Any) -> TrainConfig:
    """The configuration that `to_dict` wrote. Missing fields take their defaults.

    Raises:
        ConfigError: a field or a kind is unknown, or a value is impossible.
    """
    values = dict(_fields(values, TrainConfig, "configuration"))
    if "model" in values:
        model = values["model"]
        name = DEFAULT_KIND
        if isinstance(model, Mapping) and "kind" in model:
            name = model["kind"]
            model = {key: value for key, value in model.items() if key != "kind"}
        if not isinstance(name, str) or name not in MODEL_KINDS:
            raise ConfigError(
                f"unknown kind of model {short_repr(name)}\n"
                f"expected one of {', '.join(MODEL_KINDS)}\n"
                "Correct it. It may come from a newer cgan_jax."
            )
        values["model"] = MODEL_KINDS[name](**_fields(model, MODEL_KINDS[name], "model"))
    for name in ("optimizer", "disc_optimizer"):
        if values.get(name) is not None:
            values[name] = OptimizerConfig(**_fields(values[name], OptimizerConfig, name))
    return TrainConfig(**values)


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """The fields in which two configurations differ, as `optimizer.lr: 0.0002 -> 0.001`."""
    if type(old.model) is not type(new.model):
        kinds = {kind: name for name, kind in MODEL_KINDS.items()}
        return [f"model: {kinds[type(old.model)]} -> {kinds[type(new.model)]}"]
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


def _int_field(config: Any, name: str, at_least: int, at_most: int | None = None) -> None:
    value = check_int_field(config, name, at_least, at_most)
    object.__setattr__(config, name, value)  # NumPy's integers have no place in JSON


def _number_field(config: Any, name: str, low: float, high: float, text: str) -> None:
    given = getattr(config, name)
    try:
        value = float(given) if isinstance(given, Real) and not isinstance(given, bool) else None
    except OverflowError:
        value = math.inf
    if value is None or not (low <= value <= high and math.isfinite(value)):
        raise ConfigError(
            f"{name} must be a finite number {text}, not {short_repr(given)}\n"
            f"{default_hint(config, name)}"
        )
    object.__setattr__(config, name, value)
