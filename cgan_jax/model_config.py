"""The kinds of model configuration: sizes and constants of a generator and a discriminator.

`cgan_jax.models.networks` builds the networks. Imports no JAX.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from cgan_jax.checks import (
    BelowOne,
    Count,
    ImageSize,
    Positive,
    Range,
    Widths,
    check_fields,
    height_and_width,
    plural,
    short_repr,
    size_text,
)
from cgan_jax.errors import ConfigError

INT32_MAX = 2**31 - 1  # most steps of a run, counted in an int32, and most weights of a network

GeneratorConditioning = Literal["concatenation", "batch_norm"]
DiscriminatorConditioning = Literal["concatenation", "projection", "projection_only"]
Resampling = Literal["shuffle", "filter"]
Precision = Literal["float32", "bfloat16"]
Slope = Annotated[float, Range(0, 1, "in [0, 1]")]


@dataclass(frozen=True)
class BaseModelConfig:
    """What every kind of model configuration has.

    Attributes:
        n_classes: number of classes.
        latent_dim: size of a latent point, the generator's noise.
        label_dim: width of the label embeddings; None for the number of classes, as in the report.
        img_size: height and width of the images in pixels: an integer where they are equal,
            `(height, width)` where not.
        channels: 1 for grey images, 3 for colour, 4 for colour with alpha.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    n_classes: Count = 10
    latent_dim: Count = 100
    label_dim: Count | None = None
    img_size: ImageSize = 28
    channels: Count = 1

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def embedding_width(self) -> int:
        """Width of the label embeddings."""
        return self.n_classes if self.label_dim is None else self.label_dim

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return *height_and_width(self.img_size), self.channels

    def smallest(self, n_halvings: int) -> tuple[int, int]:
        """Height and width of the images after that many halvings."""
        height, width = height_and_width(self.img_size)
        return height >> n_halvings, width >> n_halvings

    def _check_halvings(self, n_halvings: int, shorten: str) -> None:
        """Raise a ConfigError if the image size cannot be halved so often; `shorten` says how."""
        unit = 2**n_halvings
        sides = self.img_size if isinstance(self.img_size, tuple) else (self.img_size,)
        if all(side % unit == 0 for side in sides):
            return
        below = "x".join(short_repr(max(1, side // unit) * unit) for side in sides)
        above = "x".join(short_repr(-(-side // unit) * unit) for side in sides)
        raise ConfigError(
            f"img_size {size_text(self.img_size)} cannot be halved {plural(n_halvings, 'time')}\n"
            f"expected {'a multiple' if len(sides) == 1 else 'multiples'} of {short_repr(unit)}, "
            f"such as {' or '.join(dict.fromkeys((below, above)))}\n"
            f"Resize the images, or {shorten}."
        )

    def _check_weights(self, *networks: Iterable[int]) -> None:
        """Raise a ConfigError if a network, as its layers' numbers of weights, is too large."""
        if max(sum(layers) for layers in networks) <= INT32_MAX:
            return
        sizes = {
            name: max(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
            if isinstance(value, int | tuple)
        }
        largest = max(sizes, key=lambda name: sizes[name])
        raise ConfigError(
            f"with {largest} {short_repr(sizes[largest])} a network has too many weights\n"
            f"expected at most {INT32_MAX:,}\nGive smaller sizes."
        )

    def _check_dense(self, generator: tuple[int, ...], discriminator: tuple[int, ...]) -> None:
        """`_check_weights` of two MLPs with these hidden layers."""
        pixels, label = math.prod(self.image_shape), self.embedding_width
        gen = self.latent_dim + label, *generator, pixels
        disc = pixels + label, *discriminator, 1
        table = self.n_classes * label
        self._check_weights(*([table, *(i * o for i, o in pairwise(w))] for w in (gen, disc)))


@dataclass(frozen=True)
class ModelConfig(BaseModelConfig):
    """Sizes and constants of the report's two networks. The defaults are the report's.

    Attributes:
        generator_widths: sizes of the generator's hidden layers; the first has no BatchNorm.
        discriminator_widths: sizes of the discriminator's hidden layers; the first has no dropout.
        negative_slope: slope of LeakyReLU below zero, in [0, 1].
        dropout_rate: share of the discriminator's activations that are dropped, in [0, 1).
        bn_epsilon: added to the variance in BatchNorm; the report's 0.8 is explained in
            `cgan_jax.Generator`.
        bn_momentum: decay of BatchNorm's running statistics, in [0, 1): 1 - PyTorch's momentum.
    """

    generator_widths: Widths = (128, 256, 512, 1024)
    discriminator_widths: Widths = (512, 512, 512)
    negative_slope: Slope = 0.2
    dropout_rate: BelowOne = 0.4
    bn_epsilon: Positive = 0.8
    bn_momentum: BelowOne = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_dense(self.generator_widths, self.discriminator_widths)


@dataclass(frozen=True)
class MLPConfig(BaseModelConfig):
    """Sizes of an MLP pair without normalisation and dropout, for relativistic losses.

    Attributes:
        generator_widths: sizes of the generator's hidden layers.
        discriminator_widths: sizes of the discriminator's hidden layers.
        negative_slope: slope of LeakyReLU below zero, in [0, 1].
        discriminator_conditioning: how the label enters the discriminator: its embedding beside the
            pixels, or as a projection on the last features (Miyato and Koyama 2018) with or without
            the unconditional term.
    """

    generator_widths: Widths = (128, 256, 512, 1024)
    discriminator_widths: Widths = (512, 512, 512)
    negative_slope: Slope = 0.2
    discriminator_conditioning: DiscriminatorConditioning = "concatenation"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_dense(self.generator_widths, self.discriminator_widths)
        if self.discriminator_conditioning != "concatenation":
            self._check_weights([self.n_classes * self.discriminator_widths[-1]])


@dataclass(frozen=True)
class ResidualConfig(BaseModelConfig):
    """Sizes of a residual pair without normalisation, after R3GAN's config D (Huang et al. 2024).

    The defaults fit images of 28x28 and training on a CPU. A generator with n stages starts at
    `img_size / 2**n`, a discriminator with n stages ends there.

    Attributes:
        generator_widths: channels of the generator's stages, from the smallest images up.
        discriminator_widths: channels of the discriminator's stages, from the largest images down.
        blocks: residual blocks per stage.
        expansion: width of the 3x3 convolution in a block, relative to its stage, above 0 and at
            most 16.
        features: size of the discriminator's last hidden layer.
        resampling: how a stage leads to the next: `shuffle` moves pixels into channels and back,
            `filter` is R3GAN's filter [1, 3, 3, 1].
        negative_slope: slope of LeakyReLU below zero, in [0, 1].
        discriminator_conditioning: how the label enters the discriminator: its embedding as
            constant planes beside the image, or as a projection on the last features (Miyato and
            Koyama 2018) with or without the unconditional term.
        precision: of the stages' arithmetic; `bfloat16` is for GPUs. Parameters, the
            generator's first and last layer, the discriminator's last two, images and scores stay
            float32.
    """

    latent_dim: Count = 64
    label_dim: Count | None = 32
    generator_widths: Widths = (128, 64)
    discriminator_widths: Widths = (64, 128)
    blocks: Count = 1
    expansion: Annotated[float, Range(math.nextafter(0, 1), 16, "above 0 and at most 16")] = 0.5
    features: Count = 256
    resampling: Resampling = "shuffle"
    negative_slope: Slope = 0.2
    discriminator_conditioning: DiscriminatorConditioning = "projection"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        stages = max(len(self.generator_widths), len(self.discriminator_widths))
        self._check_halvings(stages, "give fewer generator_widths and discriminator_widths")
        self._check_weights(
            self._weights(self.generator_widths, self.latent_dim + self.embedding_width),
            self._weights(self.discriminator_widths[::-1], self.features),
        )

    def hidden_width(self, width: int) -> int:
        """Width of the 3x3 convolution in a block of a stage of this width."""
        return max(1, round(self.expansion * width))

    def _weights(self, widths: tuple[int, ...], dense: int) -> Iterator[int]:
        """Weights of each layer of a network, from its smallest images up."""
        yield self.n_classes * max(self.embedding_width, self.features)
        yield dense * math.prod(self.smallest(len(widths))) * widths[0]
        yield from (4 * width * larger for width, larger in pairwise(widths))
        yield 9 * widths[-1] * (4 * self.channels + self.embedding_width)
        for width in widths:
            hidden = self.hidden_width(width)
            yield self.blocks * (2 * width + 9 * hidden) * hidden


@dataclass(frozen=True)
class SNGANConfig(BaseModelConfig):
    """Sizes of the SNGAN pair (Miyato et al. 2018) with a projection (Miyato and Koyama 2018).

    The generator has conditional batch normalisation, the discriminator spectral normalisation. The
    papers' widths for 32x32 images are 256 and 128; the defaults train on a CPU.

    Attributes:
        generator_width: channels of the generator's blocks.
        discriminator_width: channels of the discriminator's blocks.
        stages: how often the image size doubles in the generator and halves in the discriminator,
            at most 16.
        bn_epsilon: added to the variance in batch normalisation.
        bn_momentum: decay of its running statistics, in [0, 1): 1 - PyTorch's momentum.
        generator_conditioning: how the label enters the generator: as a scale and a bias of its own
            in every block's batch normalisation, or with its embedding beside the latent point.
        discriminator_conditioning: how the label enters the discriminator: its embedding as
            constant planes beside the image, or as a projection on the last features with or
            without the unconditional term.
        precision: of the blocks' arithmetic; `bfloat16` is for GPUs. Parameters, statistics, the
            generator's first and last layer, the discriminator's last, images and scores stay
            float32.
    """

    latent_dim: Count = 128
    generator_width: Count = 64
    discriminator_width: Count = 64
    stages: Annotated[int, Range(1, 16)] = 2
    bn_epsilon: Positive = 1e-5
    bn_momentum: BelowOne = 0.9
    generator_conditioning: GeneratorConditioning = "batch_norm"
    discriminator_conditioning: DiscriminatorConditioning = "projection"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_halvings(self.stages, "give fewer stages")
        label, width = self.embedding_width, self.generator_width
        first = (self.latent_dim + label) * math.prod(self.smallest(self.stages)) * width
        tables = self.n_classes * max(label, 4 * self.stages * width)
        generator = [first, 19 * self.stages * width**2, 9 * width * self.channels, tables]
        width, inputs = self.discriminator_width, self.channels + label
        tables = self.n_classes * max(label, width)
        discriminator = [10 * inputs * width, (19 * self.stages + 36) * width**2, tables]
        self._check_weights(generator, discriminator)


MODEL_KINDS: dict[str, type[BaseModelConfig]] = {
    "report": ModelConfig,
    "mlp": MLPConfig,
    "residual": ResidualConfig,
    "sngan": SNGANConfig,
}
DEFAULT_KIND = "report"
"""The kinds of model configuration, by the name that a run's `config.json` has for them.

No name, as in early runs, means `report`. `cgan_jax.models.networks` builds their networks.
"""


def kind_of(model: BaseModelConfig) -> str:
    """The name of a model configuration's kind."""
    return next(name for name, kind in MODEL_KINDS.items() if type(model) is kind)


def as_report_model(model: BaseModelConfig) -> ModelConfig:
    """The same configuration, for what exists for the report's networks alone.

    Raises:
        ConfigError: it is of another kind.
    """
    if not isinstance(model, ModelConfig):
        raise ConfigError(
            f"the networks are of kind {kind_of(model)}\nexpected the report's\n"
            "Use a run of the preset report, or another format."
        )
    return model
