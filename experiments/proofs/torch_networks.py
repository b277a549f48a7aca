"""The modern networks in plain PyTorch: MLP, residual and SNGAN pairs. No training here.

Independent twins: the oracle of tests/models and the peers of the presets' speed benchmark. Of
cgan_jax they know only the configurations, which say the sizes, and the names of its variables, to
load them. Images are `[B, C, H, W]`. On a CPU, `.to(memory_format=torch.channels_last)` makes the
convolutional ones faster: the conversion between images and vectors is free in that format.

torch_cgan.py has the report's pair. Sources: R3GAN (Huang et al. 2024), SNGAN (Miyato et al. 2018)
and the projection discriminator (Miyato and Koyama 2018).
"""

import math
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

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
    Layers are named as in Flax: `block.0.conv_0` is `block_0/conv_0` there.
    """

    @torch.no_grad()
    def load(self, variables: Variables) -> None:
        """Take over `params` and `batch_stats` of the Flax network of the same configuration."""
        for name, layer in self.named_modules():
            path = re.sub(r"\.(?=\d)", "_", name.removeprefix("stages.")).replace(".", "/")
            if isinstance(layer, nn.BatchNorm2d):
                _load_batch_norm(layer, variables, path.removesuffix("/norm"))
            elif isinstance(layer, nn.Embedding | nn.Linear | nn.Conv2d):
                _load_weights(layer, variables, path)


def _load_batch_norm(layer: nn.BatchNorm2d, variables: Variables, path: str) -> None:
    stats = _at(variables["batch_stats"], path)
    _copy(layer.running_mean, stats["mean"])
    _copy(layer.running_var, stats["var"])
    if layer.affine:
        params = _at(variables["params"], path)
        _copy(layer.weight, params["scale"])
        _copy(layer.bias, params["bias"])


def _load_weights(layer: Any, variables: Variables, path: str) -> None:
    params = _at(variables["params"], path)
    weight = np.asarray(params["embedding" if isinstance(layer, nn.Embedding) else "kernel"])
    if isinstance(layer, nn.Linear):
        weight = weight.T
    elif isinstance(layer, nn.Conv2d):
        weight = weight.transpose(3, 2, 0, 1)
    if isinstance(layer, ShuffledConv):
        weight = layer.places_last(weight)
    if getattr(layer, "bias", None) is not None:
        shuffles_outputs = isinstance(layer, ShuffledConv) and layer.axis == 0
        bias = params["bias"]
        _copy(layer.bias, layer.places_last(bias) if shuffles_outputs else bias)
    if not is_parametrized(layer):
        _copy(layer.weight, weight)
        return
    norm = _at(variables["batch_stats"], f"{path}_norm")
    vectors, v = layer.parametrizations.weight[0], np.asarray(norm["v"])
    if isinstance(layer, nn.Conv2d):
        v = v.reshape(*layer.kernel_size, -1).transpose(2, 0, 1).ravel()
    _copy(layer.parametrizations.weight.original, weight)
    _copy(vectors._v, v)
    _copy(vectors._u, norm["u"])


def _copy(target: Any, values: Any) -> None:
    if target.shape != values.shape:
        raise ValueError(f"an array of shape {tuple(values.shape)} for {tuple(target.shape)}")
    target.copy_(torch.tensor(np.asarray(values)))


def _at(tree: Any, path: str) -> Any:
    for name in path.split("/"):
        tree = tree[name]
    return tree


class ShuffledConv(nn.Conv2d):
    """A convolution beside a pixel shuffle of its first `4 * channels` inputs or outputs.

    Flax's networks number these with the place in the 2x2 square first, PyTorch's with it last.

    Args:
        inputs: number of channels.
        outputs: number of channels.
        size: of the kernel.
        axis: of PyTorch's kernel: 0 for outputs, 1 for inputs.
        channels: on the side with more pixels.
        bias: whether there is one.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int, *, axis: int, channels: int, bias: bool = False
    ) -> None:
        super().__init__(inputs, outputs, size, padding=size // 2, bias=bias)
        self.axis, self.channels = axis, channels

    def places_last(self, weight: Any) -> np.ndarray:
        """A kernel of Flax's, its axes already PyTorch's, or a bias, in PyTorch's order."""
        square, rest = np.split(np.moveaxis(weight, self.axis, 0), [4 * self.channels])
        square = square.reshape(4, self.channels, *square.shape[1:]).swapaxes(0, 1)
        whole = np.concatenate([square.reshape(-1, *square.shape[2:]), rest])
        return np.moveaxis(whole, 0, self.axis)


def with_planes(x: Tensor, embedding: nn.Module | None, labels: Tensor) -> Tensor:
    """Images with the label's embedding as constant planes, if it has one here."""
    if embedding is None:
        return x
    planes = embedding(labels)[:, :, None, None].expand(-1, -1, *x.shape[2:])
    return torch.cat([x, planes], 1)


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


class MLPGenerator(Network):
    """Noise and label embedding through linear layers with LeakyReLU, then tanh."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.image = config.image_shape
        self.label_embedding = nn.Embedding(config.n_classes, config.embedding_width)
        sizes = [config.embedding_width + config.latent_dim, *config.generator_widths]
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
        self.output = nn.Linear(sizes[-1], math.prod(self.image))
        self.negative_slope = config.negative_slope

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        x = torch.cat([self.label_embedding(labels), z], 1)
        for layer in self.hidden:
            x = F.leaky_relu(layer(x), self.negative_slope)
        return torch.tanh(self.output(x)).unflatten(1, self.image).permute(0, 3, 1, 2)


class MLPDiscriminator(Network):
    """Pixels, and perhaps a label embedding, through linear layers with LeakyReLU to a score."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        conditioning, width = config.discriminator_conditioning, config.embedding_width
        self.label_embedding = None
        inputs = math.prod(config.image_shape)
        if conditioning == "concatenation":
            self.label_embedding = nn.Embedding(config.n_classes, width)
            inputs += width
        sizes = [inputs, *config.discriminator_widths]
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
        self.score = Score(config.n_classes, sizes[-1], conditioning)
        self.negative_slope = config.negative_slope

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        x = images.permute(0, 2, 3, 1).flatten(1)
        if self.label_embedding is not None:
            x = torch.cat([x, self.label_embedding(labels)], 1)
        for layer in self.hidden:
            x = F.leaky_relu(layer(x), self.negative_slope)
        return self.score(x, labels)


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


def stages(config: ResidualConfig, widths: Sequence[int], up: bool) -> nn.Sequential:
    """Blocks, and between two stages a change of resolution, up or down."""
    layers = OrderedDict[str, nn.Module]()
    for i, width in enumerate(widths):
        if i > 0:
            layers |= _change(config, f"to_stage_{i}", widths[i - 1], width, up)
        for j in range(config.blocks):
            block = Bottleneck(width, config.hidden_width(width), config.negative_slope)
            layers[f"stage_{i}_block_{j}"] = block
    return nn.Sequential(layers)


def _change(
    config: ResidualConfig, name: str, before: int, after: int, up: bool
) -> dict[str, nn.Module]:
    """A 1x1 convolution, where one is needed, and what changes the resolution."""
    layers: dict[str, nn.Module] = {}
    if config.resampling == "shuffle":
        sizes = (before, 4 * after) if up else (4 * before, after)
        axis, channels = (0, after) if up else (1, before)
        layers[name] = ShuffledConv(*sizes, 1, axis=axis, channels=channels)
        layers[f"{name}_resampling"] = nn.PixelShuffle(2) if up else nn.PixelUnshuffle(2)
    else:
        if before != after:
            layers[name] = nn.Conv2d(before, after, 1, bias=False)
        layers[f"{name}_resampling"] = Filter(up)
    return layers if up else dict(reversed(layers.items()))


class ResidualGenerator(Network):
    """A linear layer, stages of growing images, and 3x3 with a pixel shuffle to the image."""

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__()
        widths = config.generator_widths
        self.start = (*config.smallest(len(widths)), widths[0])
        self.label_embedding = nn.Embedding(config.n_classes, config.embedding_width)
        inputs = config.embedding_width + config.latent_dim
        self.first = nn.Linear(inputs, math.prod(self.start))
        self.stages = stages(config, widths, up=True)
        channels = config.channels
        self.output = ShuffledConv(
            widths[-1], 4 * channels, 3, axis=0, channels=channels, bias=True
        )

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        x = self.first(torch.cat([self.label_embedding(labels), z], 1))
        x = self.stages(x.unflatten(1, self.start).permute(0, 3, 1, 2))
        return torch.tanh(F.pixel_shuffle(self.output(x), 2))


class ResidualDiscriminator(Network):
    """A pixel unshuffle and 3x3, stages of shrinking images, a hidden layer and the score."""

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__()
        widths, conditioning = config.discriminator_widths, config.discriminator_conditioning
        self.label_embedding = None
        inputs = 4 * config.channels
        if conditioning == "concatenation":
            self.label_embedding = nn.Embedding(config.n_classes, config.embedding_width)
            inputs += config.embedding_width
        self.first = ShuffledConv(inputs, widths[0], 3, axis=1, channels=config.channels)
        self.stages = stages(config, widths, up=False)
        inputs = math.prod(config.smallest(len(widths))) * widths[-1]
        self.features = nn.Linear(inputs, config.features)
        self.score = Score(config.n_classes, config.features, conditioning)
        self.negative_slope = config.negative_slope

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        x = with_planes(F.pixel_unshuffle(images, 2), self.label_embedding, labels)
        x = self.stages(self.first(x))
        h = F.leaky_relu(self.features(x.permute(0, 2, 3, 1).flatten(1)), self.negative_slope)
        return self.score(h, labels)


class ClassBatchNorm(nn.Module):
    """BatchNorm with a scale and a bias for each class."""

    def __init__(self, n_classes: int, width: int, eps: float, momentum: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, eps, momentum, affine=False)
        self.scale = nn.Embedding.from_pretrained(torch.ones(n_classes, width), freeze=False)
        self.bias = nn.Embedding.from_pretrained(torch.zeros(n_classes, width), freeze=False)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        scale, bias = self.scale(labels), self.bias(labels)
        return self.norm(x) * scale[:, :, None, None] + bias[:, :, None, None]


class SNGANUpBlock(nn.Module):
    """BatchNorm, ReLU, nearest upsampling, 3x3, BatchNorm, ReLU, 3x3; the shortcut has a 1x1."""

    def __init__(self, config: SNGANConfig) -> None:
        super().__init__()
        width = config.generator_width
        self.by_class = config.generator_conditioning == "batch_norm"
        norm = partial(ClassBatchNorm, config.n_classes) if self.by_class else nn.BatchNorm2d
        eps, momentum = config.bn_epsilon, 1 - config.bn_momentum
        self.batch_norm_0, self.batch_norm_1 = (norm(width, eps, momentum) for _ in range(2))
        self.conv_0 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv_1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        extra = (labels,) if self.by_class else ()
        y = F.relu(self.batch_norm_0(x, *extra))
        y = self.conv_0(F.interpolate(y, scale_factor=2))
        y = self.conv_1(F.relu(self.batch_norm_1(y, *extra)))
        return y + self.shortcut(F.interpolate(x, scale_factor=2))


class SNGANGenerator(Network):
    """A linear layer, a block for each doubling, BatchNorm, ReLU and 3x3 to the image."""

    def __init__(self, config: SNGANConfig) -> None:
        super().__init__()
        width, inputs = config.generator_width, config.latent_dim
        self.start = (*config.smallest(config.stages), width)
        self.label_embedding = None
        if config.generator_conditioning == "concatenation":
            self.label_embedding = nn.Embedding(config.n_classes, config.embedding_width)
            inputs += config.embedding_width
        self.first = nn.Linear(inputs, math.prod(self.start))
        self.block = nn.ModuleList(SNGANUpBlock(config) for _ in range(config.stages))
        self.batch_norm = nn.BatchNorm2d(width, config.bn_epsilon, 1 - config.bn_momentum)
        self.output = nn.Conv2d(width, config.channels, 3, padding=1)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        if self.label_embedding is not None:
            z = torch.cat([self.label_embedding(labels), z], 1)
        x = self.first(z).unflatten(1, self.start).permute(0, 3, 1, 2)
        for block in self.block:
            x = block(x, labels)
        return torch.tanh(self.output(F.relu(self.batch_norm(x))))


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
        self.label_embedding = None
        if conditioning == "concatenation":
            embedding = nn.Embedding(config.n_classes, config.embedding_width)
            self.label_embedding = spectral_norm(embedding)
            inputs += config.embedding_width
        width = config.discriminator_width
        blocks = [SNGANDownBlock(inputs, width, first=True, down=True)]
        for i in range(1, config.stages + 2):
            blocks.append(SNGANDownBlock(width, width, first=False, down=i < config.stages))
        self.block = nn.ModuleList(blocks)
        self.score = Score(config.n_classes, width, conditioning, spectral=True)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        x = with_planes(images, self.label_embedding, labels)
        for block in self.block:
            x = block(x)
        return self.score(F.relu(x).sum((2, 3)), labels)
