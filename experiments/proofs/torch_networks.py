"""The modern networks in plain PyTorch: MLP, residual and SNGAN pairs. No training here.

Independent twins: the oracle of tests/models and the peers of the presets' speed benchmark. Of
cgan_jax they know only the configurations, which say the sizes, and the names of its variables, to
load them. Images are `[B, C, H, W]`. On a CPU, `.to(memory_format=torch.channels_last)` makes the
convolutional ones faster: the conversion between images and vectors is free in that format.

torch_cgan.py has the report's pair. Sources: R3GAN (Huang et al. 2024), SNGAN (Miyato et al. 2018)
and the projection discriminator (Miyato and Koyama 2018).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

from cgan_jax.config import BaseModelConfig, MLPConfig, ResidualConfig, SNGANConfig

Variables = Mapping[str, Any]


def networks(config: BaseModelConfig) -> tuple["Network", "Network"]:
    """The twins of `cgan_jax.models.networks(config)`, with PyTorch's random weights."""
    match config:
        case MLPConfig():
            return MLPGenerator(config), MLPDiscriminator(config)
        case ResidualConfig():
            return ResidualGenerator(config), ResidualDiscriminator(config)
        case SNGANConfig():
            return SNGANGenerator(config), SNGANDiscriminator(config)
    raise NotImplementedError(f"no twins are known for {type(config).__name__}")


class Network(nn.Module):
    """A generator, `(z, labels)` to images, or a discriminator, `(images, labels)` to scores `[B]`.

    z is float `[B, latent_dim]`, labels int64 `[B]`, images are float `[B, C, H, W]` in [-1, 1].
    """

    @torch.no_grad()
    def load(self, variables: Variables) -> None:
        """Take over `params` and `batch_stats` of the Flax network of the same configuration."""
        stats = variables.get("batch_stats", {})
        for layer, path, shuffled in self.layers():
            _load(layer, _at(variables["params"], path), path, stats, shuffled)

    def layers(self) -> "Layers":
        """Every layer with its path among Flax's variables."""
        raise NotImplementedError


class Shuffled(NamedTuple):
    """The first `4 * channels` inputs or outputs of a convolution, next to a pixel shuffle.

    Flax's networks number them with the place in the 2x2 square first, PyTorch's with it last.

    Attributes:
        axis: of PyTorch's kernel: 0 for outputs, 1 for inputs.
        channels: on the side with more pixels.
    """

    axis: int
    channels: int


Layers = Iterator[tuple[nn.Module, str, Shuffled | None]]


def _load(
    layer: Any, params: Variables, path: str, stats: Variables, shuffled: Shuffled | None
) -> None:
    if isinstance(layer, ClassBatchNorm | nn.BatchNorm2d):
        by_class = isinstance(layer, ClassBatchNorm)
        scale, bias = params["scale"], params["bias"]
        _copy(layer.scale if by_class else layer.weight, scale["embedding"] if by_class else scale)
        _copy(layer.bias, bias["embedding"] if by_class else bias)
        norm: Any = layer.norm if by_class else layer
        _copy(norm.running_mean, _at(stats, path)["mean"])
        _copy(norm.running_var, _at(stats, path)["var"])
        return
    weight = params["embedding"] if isinstance(layer, nn.Embedding) else params["kernel"]
    if getattr(layer, "bias", None) is not None:
        outputs = shuffled is not None and shuffled.axis == 0
        bias = torch.tensor(np.asarray(params["bias"]))
        _copy(layer.bias, _places_last(bias, shuffled) if shuffled and outputs else bias)
    if not is_parametrized(layer):
        _copy(layer.weight, _as_torch(layer, weight, shuffled))
        return
    _copy(layer.parametrizations.weight.original, _as_torch(layer, weight, shuffled))
    vectors, v = layer.parametrizations.weight[0], np.asarray(_at(stats, f"{path}_norm")["v"])
    if isinstance(layer, nn.Conv2d):
        v = v.reshape(*layer.kernel_size, -1).transpose(2, 0, 1).ravel()
    _copy(vectors._v, v)
    _copy(vectors._u, _at(stats, f"{path}_norm")["u"])


def _as_torch(layer: nn.Module, weight: Any, shuffled: Shuffled | None) -> Tensor:
    weight = torch.tensor(np.asarray(weight))
    if isinstance(layer, nn.Linear):
        return weight.T
    if isinstance(layer, nn.Conv2d):
        weight = weight.permute(3, 2, 0, 1)
    return _places_last(weight, shuffled) if shuffled else weight


def _places_last(weight: Tensor, shuffled: Shuffled) -> Tensor:
    axis, channels = shuffled
    square, rest = weight.tensor_split([4 * channels], axis)
    square = square.unflatten(axis, (4, channels)).transpose(axis, axis + 1)
    return torch.cat([square.flatten(axis, axis + 1), rest], axis)


def _copy(target: Any, values: Any) -> None:
    if target.shape != values.shape:
        raise ValueError(f"an array of shape {tuple(values.shape)} for {tuple(target.shape)}")
    target.copy_(torch.as_tensor(np.array(values)) if not isinstance(values, Tensor) else values)


def _at(tree: Any, path: str) -> Any:
    for name in path.split("/"):
        tree = tree[name]
    return tree


class Score(nn.Module):
    """Projection discriminator: `linear(h) + <e(y), h>`, or only one of the terms."""

    def __init__(self, n_classes: int, features: int, conditioning: str, spectral: bool = False):
        super().__init__()
        wrap = spectral_norm if spectral else lambda layer: layer
        self.linear = self.embedding = None
        if conditioning != "projection_only":
            self.linear = wrap(nn.Linear(features, 1))
        if conditioning != "concatenation":
            self.embedding = wrap(nn.Embedding(n_classes, features))

    def forward(self, h: Tensor, labels: Tensor) -> Tensor:
        score = h.new_zeros(len(h))
        if self.linear is not None:
            score = score + self.linear(h).squeeze(1)
        if self.embedding is not None:
            score = score + torch.einsum("bf,bf->b", self.embedding(labels), h)
        return score

    def layers(self) -> Layers:
        if self.linear is not None:
            yield self.linear, "score/linear", None
        if self.embedding is not None:
            yield self.embedding, "score/embedding", None


class MLPGenerator(Network):
    """Noise and label embedding through linear layers with LeakyReLU, then tanh."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.image = config.image_shape
        self.embedding = nn.Embedding(config.n_classes, config.embedding_width)
        sizes = [config.embedding_width + config.latent_dim, *config.generator_widths]
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
        self.output = nn.Linear(sizes[-1], math.prod(self.image))
        self.negative_slope = config.negative_slope

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        x = torch.cat([self.embedding(labels), z], 1)
        for layer in self.hidden:
            x = F.leaky_relu(layer(x), self.negative_slope)
        return torch.tanh(self.output(x)).unflatten(1, self.image).permute(0, 3, 1, 2)

    def layers(self) -> Layers:
        yield self.embedding, "label_embedding", None
        yield from ((layer, f"hidden_{i}", None) for i, layer in enumerate(self.hidden))
        yield self.output, "output", None


class MLPDiscriminator(Network):
    """Pixels, and perhaps a label embedding, through linear layers with LeakyReLU to a score."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        conditioning, width = config.discriminator_conditioning, config.embedding_width
        self.embedding = None
        inputs = math.prod(config.image_shape)
        if conditioning == "concatenation":
            self.embedding, inputs = nn.Embedding(config.n_classes, width), inputs + width
        sizes = [inputs, *config.discriminator_widths]
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
        self.score = Score(config.n_classes, sizes[-1], conditioning)
        self.negative_slope = config.negative_slope

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        x = images.permute(0, 2, 3, 1).flatten(1)
        if self.embedding is not None:
            x = torch.cat([x, self.embedding(labels)], 1)
        for layer in self.hidden:
            x = F.leaky_relu(layer(x), self.negative_slope)
        return self.score(x, labels)

    def layers(self) -> Layers:
        if self.embedding is not None:
            yield self.embedding, "label_embedding", None
        yield from ((layer, f"hidden_{i}", None) for i, layer in enumerate(self.hidden))
        yield from self.score.layers()


class Bottleneck(nn.Module):
    """R3GAN's block: 1x1, 3x3 and 1x1 around an identity, two biased activations."""

    def __init__(self, width: int, hidden: int, negative_slope: float) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, hidden, 1)
        self.mix = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.expand = nn.Conv2d(hidden, width, 1, bias=False)
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.reduce(x), self.negative_slope)
        y = F.leaky_relu(self.mix(y), self.negative_slope)
        return x + self.expand(y)


class Filter(nn.Module):
    """R3GAN's resampler: [1, 3, 3, 1] on both axes, each channel by itself."""

    kernel: Tensor

    def __init__(self, up: bool) -> None:
        super().__init__()
        line = torch.tensor([1.0, 3.0, 3.0, 1.0])
        kernel = torch.outer(line, line) / 64
        self.register_buffer("kernel", (4 * kernel if up else kernel)[None, None])
        self.up = up

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.expand(channels, 1, 4, 4)
        resample = F.conv_transpose2d if self.up else F.conv2d
        return resample(x, kernel, stride=2, padding=1, groups=channels)


class _Stages(nn.Module):
    """Blocks and changes of resolution, up or down."""

    def __init__(self, config: ResidualConfig, widths: Sequence[int], up: bool) -> None:
        super().__init__()
        self.shuffle, self.up = config.resampling == "shuffle", up
        self.filter = Filter(up)
        self.stages = nn.ModuleList()
        self.changes = nn.ModuleList()
        for width in widths:
            hidden = max(1, round(config.expansion * width))
            slope = config.negative_slope
            blocks = (Bottleneck(width, hidden, slope) for _ in range(config.blocks))
            self.stages.append(nn.Sequential(*blocks))
        for before, after in pairwise(widths):
            inputs = before if up or not self.shuffle else 4 * before
            outputs = 4 * after if up and self.shuffle else after
            same = not self.shuffle and before == after
            layer = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, bias=False)
            self.changes.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        for i, stage in enumerate(self.stages):
            if i > 0:
                change = self.changes[i - 1]
                if self.up:
                    x = change(x)
                    x = F.pixel_shuffle(x, 2) if self.shuffle else self.filter(x)
                else:
                    x = F.pixel_unshuffle(x, 2) if self.shuffle else self.filter(x)
                    x = change(x)
            x = stage(x)
        return x

    def layers(self) -> Layers:
        for i, stage in enumerate(self.stages):
            for j, block in enumerate(stage.children()):
                for name in ("reduce", "mix", "expand"):
                    yield getattr(block, name), f"stage_{i}_block_{j}/{name}", None
        for i, change in enumerate(self.changes):
            if isinstance(change, nn.Conv2d):
                axis = 0 if self.up else 1
                shuffled = Shuffled(axis, change.weight.shape[axis] // 4)
                yield change, f"to_stage_{i + 1}", shuffled if self.shuffle else None


class ResidualGenerator(Network):
    """A linear layer, stages of growing images, and 3x3 with a pixel shuffle to the image."""

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__()
        widths = config.generator_widths
        self.start = (*config.smallest(len(widths)), widths[0])
        self.embedding = nn.Embedding(config.n_classes, config.embedding_width)
        inputs = config.embedding_width + config.latent_dim
        self.first = nn.Linear(inputs, math.prod(self.start))
        self.stages = _Stages(config, widths, up=True)
        self.output = nn.Conv2d(widths[-1], 4 * config.channels, 3, padding=1)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        x = self.first(torch.cat([self.embedding(labels), z], 1))
        x = self.stages(x.unflatten(1, self.start).permute(0, 3, 1, 2))
        return torch.tanh(F.pixel_shuffle(self.output(x), 2))

    def layers(self) -> Layers:
        yield self.embedding, "label_embedding", None
        yield self.first, "first", None
        yield from self.stages.layers()
        yield self.output, "output", Shuffled(0, self.output.out_channels // 4)


class ResidualDiscriminator(Network):
    """A pixel unshuffle and 3x3, stages of shrinking images, a hidden layer and the score."""

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__()
        widths, conditioning = config.discriminator_widths, config.discriminator_conditioning
        self.channels, self.embedding = config.channels, None
        inputs = 4 * config.channels
        if conditioning == "concatenation":
            self.embedding = nn.Embedding(config.n_classes, config.embedding_width)
            inputs += config.embedding_width
        self.first = nn.Conv2d(inputs, widths[0], 3, padding=1, bias=False)
        self.stages = _Stages(config, widths, up=False)
        inputs = math.prod(config.smallest(len(widths))) * widths[-1]
        self.features = nn.Linear(inputs, config.features)
        self.score = Score(config.n_classes, config.features, conditioning)
        self.negative_slope = config.negative_slope

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        x = F.pixel_unshuffle(images, 2)
        if self.embedding is not None:
            planes = self.embedding(labels)[:, :, None, None].expand(-1, -1, *x.shape[2:])
            x = torch.cat([x, planes], 1)
        x = self.stages(self.first(x))
        h = F.leaky_relu(self.features(x.permute(0, 2, 3, 1).flatten(1)), self.negative_slope)
        return self.score(h, labels)

    def layers(self) -> Layers:
        if self.embedding is not None:
            yield self.embedding, "label_embedding", None
        yield self.first, "first", Shuffled(1, self.channels)
        yield from self.stages.layers()
        yield self.features, "features", None
        yield from self.score.layers()


class ClassBatchNorm(nn.Module):
    """BatchNorm with a scale and a bias for each class."""

    def __init__(self, n_classes: int, width: int, eps: float, momentum: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, eps, momentum, affine=False)
        self.scale = nn.Parameter(torch.ones(n_classes, width))
        self.bias = nn.Parameter(torch.zeros(n_classes, width))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        scale, bias = self.scale[labels], self.bias[labels]
        return self.norm(x) * scale[:, :, None, None] + bias[:, :, None, None]


class SNGANUpBlock(nn.Module):
    """BatchNorm, ReLU, nearest upsampling, 3x3, BatchNorm, ReLU, 3x3; the shortcut has a 1x1."""

    def __init__(self, config: SNGANConfig) -> None:
        super().__init__()
        width = config.generator_width
        by_class = config.generator_conditioning == "batch_norm"
        for i in range(2):
            eps, momentum = config.bn_epsilon, 1 - config.bn_momentum
            norm: nn.Module = (
                ClassBatchNorm(config.n_classes, width, eps, momentum)
                if by_class
                else nn.BatchNorm2d(width, eps, momentum)
            )
            self.add_module(f"batch_norm_{i}", norm)
            self.add_module(f"conv_{i}", nn.Conv2d(width, width, 3, padding=1, bias=False))
        self.shortcut = nn.Conv2d(width, width, 1, bias=False)
        self.by_class = by_class

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        extra = (labels,) if self.by_class else ()
        y = F.relu(self.batch_norm_0(x, *extra))  # type: ignore[operator]
        y = self.conv_0(F.interpolate(y, scale_factor=2))  # type: ignore[operator]
        y = self.conv_1(F.relu(self.batch_norm_1(y, *extra)))  # type: ignore[operator]
        return y + self.shortcut(F.interpolate(x, scale_factor=2))


class SNGANGenerator(Network):
    """A linear layer, a block for each doubling, BatchNorm, ReLU and 3x3 to the image."""

    def __init__(self, config: SNGANConfig) -> None:
        super().__init__()
        width, inputs = config.generator_width, config.latent_dim
        self.start = (*config.smallest(config.stages), width)
        self.embedding = None
        if config.generator_conditioning == "concatenation":
            self.embedding = nn.Embedding(config.n_classes, config.embedding_width)
            inputs += config.embedding_width
        self.first = nn.Linear(inputs, math.prod(self.start))
        self.blocks = nn.ModuleList(SNGANUpBlock(config) for _ in range(config.stages))
        self.batch_norm = nn.BatchNorm2d(width, config.bn_epsilon, 1 - config.bn_momentum)
        self.output = nn.Conv2d(width, config.channels, 3, padding=1)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        if self.embedding is not None:
            z = torch.cat([self.embedding(labels), z], 1)
        x = self.first(z).unflatten(1, self.start).permute(0, 3, 1, 2)
        for block in self.blocks:
            x = block(x, labels)
        return torch.tanh(self.output(F.relu(self.batch_norm(x))))

    def layers(self) -> Layers:
        if self.embedding is not None:
            yield self.embedding, "label_embedding", None
        yield self.first, "first", None
        for i, block in enumerate(self.blocks):
            for name in ("batch_norm_0", "conv_0", "batch_norm_1", "conv_1", "shortcut"):
                yield getattr(block, name), f"block_{i}/{name}", None
        yield self.batch_norm, "batch_norm", None
        yield self.output, "output", None


class SNGANDownBlock(nn.Module):
    """ReLU, 3x3, ReLU, 3x3, mean pooling; the shortcut, 1x1 and pooling, only if the size halves.

    The first block, of an image, has no ReLU before its first convolution.
    """

    def __init__(self, inputs: int, width: int, first: bool, down: bool) -> None:
        super().__init__()
        self.conv_0 = spectral_norm(nn.Conv2d(inputs, width, 3, padding=1))
        self.conv_1 = spectral_norm(nn.Conv2d(width, width, 3, padding=1))
        self.shortcut = spectral_norm(nn.Conv2d(inputs, width, 1)) if down else None
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_1(F.relu(self.conv_0(x if self.first else F.relu(x))))
        if self.shortcut is None:
            return x + y
        return F.avg_pool2d(self.shortcut(x), 2) + F.avg_pool2d(y, 2)


class SNGANDiscriminator(Network):
    """A block for each halving and two more, ReLU, the sum over the image and the score."""

    def __init__(self, config: SNGANConfig) -> None:
        super().__init__()
        conditioning, inputs = config.discriminator_conditioning, config.channels
        self.embedding = None
        if conditioning == "concatenation":
            embedding = nn.Embedding(config.n_classes, config.embedding_width)
            self.embedding = spectral_norm(embedding)
            inputs += config.embedding_width
        width = config.discriminator_width
        blocks = [SNGANDownBlock(inputs, width, first=True, down=True)]
        for i in range(1, config.stages + 2):
            blocks.append(SNGANDownBlock(width, width, first=False, down=i < config.stages))
        self.blocks = nn.ModuleList(blocks)
        self.score = Score(config.n_classes, width, conditioning, spectral=True)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        x = images
        if self.embedding is not None:
            planes = self.embedding(labels)[:, :, None, None].expand(-1, -1, *x.shape[2:])
            x = torch.cat([x, planes], 1)
        for block in self.blocks:
            x = block(x)
        return self.score(F.relu(x).sum((2, 3)), labels)

    def layers(self) -> Layers:
        if self.embedding is not None:
            yield self.embedding, "label_embedding", None
        for i, block in enumerate(self.blocks):
            for name in ("conv_0", "conv_1", "shortcut"):
                if getattr(block, name) is not None:
                    yield getattr(block, name), f"block_{i}/{name}", None
        yield from self.score.layers()
