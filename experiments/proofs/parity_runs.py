"""The same training steps here and in the PyTorch twin, side by side. Needs PyTorch (extra torch).

What a step computed and how two are compared is in trajectory.py; bounds are in parity.py.
"""

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import jax
import numpy as np
import torch
from flax.traverse_util import unflatten_dict
from jax import random
from torch import Tensor

from cgan_jax.config import TrainConfig
from cgan_jax.data import Dataset
from cgan_jax.data.sources import Batch, epoch_order, steps_per_epoch
from cgan_jax.interop import (
    discriminator_from_torch,
    discriminator_to_torch,
    generator_from_torch,
    generator_to_torch,
)
from cgan_jax.model_config import as_report_model
from cgan_jax.training.gan import GAN, GANState
from cgan_jax.training.step import run_keys, train_step
from experiments.proofs import torch_cgan
from experiments.proofs.bare_run import BareRun
from experiments.proofs.parity import ALONE, UPDATE
from experiments.proofs.trajectory import (
    Noise,
    Step,
    Trees,
    differences,
    draw_noise,
    feeds_batch_norm,
    largest_gap,
    observe,
    parameters,
    with_arrays,
)

Gaps = dict[str, float]

_step = jax.jit(train_step, static_argnames="gan")


class Twin(torch_cgan.CGAN):
    """The PyTorch original, with its numbers by linen's names.

    Sizes are the configuration's; all other settings are the twin's own, which are the report's.
    """

    def __init__(self, config: TrainConfig, dtype: torch.dtype, seed: int) -> None:
        model = as_report_model(config.model)
        height, width, channels = model.image_shape
        shape = (channels, height, width)
        torch.manual_seed(seed)
        G = torch_cgan.Generator(model.latent_dim, model.n_classes, model.generator_widths, shape)
        D = torch_cgan.Discriminator(model.n_classes, model.discriminator_widths, shape)
        super().__init__(G.to(dtype), D.to(dtype))
        self._model, self._dtype = model, dtype
        self._fakes: list[Tensor] = []
        self.G.register_forward_hook(lambda module, args, images: self._fakes.append(images))

    def load(self, other: "Twin") -> None:
        """Take over another twin's weights and moments, in this one's dtype."""
        for part in ("G", "D", "opt_G", "opt_D"):
            arrays = deepcopy(getattr(other, part).state_dict())
            getattr(self, part).load_state_dict(arrays)

    def trees(self, value_of: Callable[[Any], Any], kind: str = "params") -> Trees:
        """Both networks' trees of linen, with this value of each parameter."""
        trees = {}
        for net, network, convert in (
            ("gen", self.G, generator_from_torch),
            ("disc", self.D, discriminator_from_torch),
        ):
            values = {name: value_of(p) for name, p in network.named_parameters()}
            values |= dict(network.named_buffers())
            arrays = {name: value.detach().numpy().copy() for name, value in values.items()}
            trees[net] = convert(arrays, self._model).get(kind, {})
        return trees

    def put_into(self, state: GANState) -> GANState:
        """The library's state with the twin's weights, statistics and moments."""
        adam = self.opt_G.state | self.opt_D.state

        def moments(kind: str) -> Trees:
            return self.trees(lambda p: adam[p][kind] if p in adam else torch.zeros_like(p))

        weights, statistics = self.trees(lambda p: p), self.trees(lambda p: p, "batch_stats")
        return with_arrays(state, weights, statistics, moments("exp_avg"), moments("exp_avg_sq"))

    def step(self, batch: Batch, noise: Noise, like: GANState) -> Step:
        """One step on a batch (uint8 images) with this noise; its state is one `like` ours."""
        masks = [[torch.from_numpy(np.array(mask)) for mask in layers] for layers in noise.masks]
        torch_cgan.inject_dropout_masks(self.D, masks)
        self._fakes.clear()
        losses = self.train_step(
            real=self._images(batch.images) / 127.5 - 1,
            labels=_labels(batch.labels),
            z=torch.from_numpy(np.array(noise.latent)).to(self._dtype),
            fake_labels=_labels(noise.labels),
        )
        fakes = self._fakes[0].detach().permute(0, 2, 3, 1).numpy()
        grads = self.trees(lambda p: p.grad)
        return Step((losses[0].item(), losses[1].item()), fakes, grads, self.put_into(like))

    @torch.no_grad()
    def evaluate(self, latent: Any, labels: Any, images: Any) -> tuple[Any, Any]:
        """G's images, and D's scores of the given images, in evaluation mode."""
        self.G.eval()
        self.D.eval()
        fakes = self.G(torch.from_numpy(np.array(latent)).to(self._dtype), _labels(labels))
        scores = self.D(self._images(images), _labels(labels))
        return fakes.permute(0, 2, 3, 1).numpy(), scores[:, 0].numpy()

    def _images(self, images: Any) -> Tensor:
        return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).to(self._dtype)


def compare_steps(
    config: TrainConfig, dataset: Dataset, n_steps: int, *, dtype: str, seed: int = 0
) -> Iterator[Gaps]:
    """Train both from the same weights, and compare them after each step.

    Besides what `differences` has, each step's `images` and `scores` are those that the networks
    give in evaluation mode after it, both for our images, and `length of the update, relative`
    compares the norms of what the step added to all parameters but the biases before a BatchNorm.

    The weights are PyTorch's. Batches, z, labels and dropout masks are those of our run with this
    seed; the steps are centred on the end of its first epoch, whose last batch is smaller. Our
    side is `train_step` itself: it draws its own noise, which is drawn once more for PyTorch.

    In float64 the two sides train freely. In float32 they would diverge, PyTorch from its own
    float64 like ours: once rounding flips the sign of an activation near zero, LeakyReLU's gradient
    jumps. So each float32 step starts from PyTorch's float32 state on all sides, and PyTorch's
    float64 takes the same step. How far PyTorch's float32 is from it, the rounding of that step, is
    in `D loss, PyTorch alone` and so on.

    Args:
        config: sizes, batch size; the rest must be the report's.
        dataset: the training images.
        n_steps: how many steps.
        dtype: `float32` or `float64`, of everything on both sides.
        seed: of PyTorch's weights and of our run.
    """
    with jax.enable_x64(dtype == "float64"):
        gan = GAN.from_config(config)
        twin = Twin(config, getattr(torch, dtype), seed)
        exact = Twin(config, torch.float64, seed) if dtype == "float32" else None
        state = twin.put_into(_fresh_state(gan))
        points = _evaluation_points(gan)
        first = max(0, steps_per_epoch(len(dataset), config.batch_size) - n_steps // 2)
        for batch, key, noise in _step_inputs(gan, config, dataset, first, n_steps, seed):
            before = state
            state, losses = _step(gan, before, batch, key)
            step = observe(gan, before, state, losses, noise, config.optimizer.b1)
            assert step.grads["gen"]["output"]["kernel"].dtype == dtype
            ours = step, *_evaluate(gan, state, *points)
            theirs = twin.step(batch, noise, state), *twin.evaluate(*points, ours[1])
            gaps = _gaps(before, ours, theirs)
            if exact:
                best = exact.step(batch, noise, state), *exact.evaluate(*points, ours[1])
                alone = _gaps(before, theirs, best)
                gaps |= {f"{name}, {ALONE}": gap for name, gap in alone.items()}
                state = theirs[0].state
                exact.load(twin)
            yield gaps


def compare_shifted(
    config: TrainConfig, dataset: Dataset, n_steps: int, *, seed: int = 0
) -> Iterator[Gaps]:
    """Our own steps in float64, against the same ones with 1 added to each bias before a BatchNorm.

    Shows that those biases have no influence in training, whatever Adam makes of them. The running
    means take them in, so `images` (in evaluation mode) differ until the means have caught up, by
    a share of 0.9^steps.
    """
    with jax.enable_x64(True):
        gan = GAN.from_config(config)
        state = Twin(config, torch.float64, seed).put_into(_fresh_state(gan))
        params = parameters(state)
        shifted = {path: leaf + feeds_batch_norm(path, params) for path, leaf in params.items()}
        gen = state.gen.replace(params=unflatten_dict(shifted, sep="/")["gen"])
        states = [state, replace(state, gen=gen)]
        for batch, key, noise in _step_inputs(gan, config, dataset, 0, n_steps, seed):
            steps = []
            for i, before in enumerate(states):
                states[i], losses = _step(gan, before, batch, key)
                steps.append(observe(gan, before, states[i], losses, noise))
            yield differences(*steps)


def compare_images_of_theirs(
    config: TrainConfig, dataset: Dataset, n_batches: int | None = None, seed: int = 0
) -> Gaps:
    """Train PyTorch's networks for an epoch, or its first batches, and use them on both sides."""
    twin = Twin(config, torch.float32, seed)
    images = torch_cgan.scale_images(dataset.images)
    batches = torch_cgan.memory_batches(images, _labels(dataset.labels), config.batch_size)
    twin.train_epoch(islice(batches, n_batches))
    gan = GAN.from_config(config)
    return _compare_images(gan, twin, twin.put_into(_fresh_state(gan)))


def compare_images_of_ours(
    config: TrainConfig, dataset: Dataset, n_batches: int | None = None, seed: int = 0
) -> Gaps:
    """Train our networks for an epoch, or its first batches, and use them on both sides."""
    gan = GAN.from_config(config)
    run = BareRun(config, dataset, seed)
    end = n_batches or run.steps_per_epoch
    state, _ = run.take(run.fresh_state(), 0, end)
    twin, model = Twin(config, torch.float32, seed), as_report_model(config.model)
    for network, arrays in (
        (twin.G, generator_to_torch(state.gen.variables, model, end)),
        (twin.D, discriminator_to_torch(state.disc.variables, model)),
    ):
        network.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    return _compare_images(gan, twin, state)


def _compare_images(gan: GAN, twin: Twin, state: GANState) -> Gaps:
    points = _evaluation_points(gan)
    images, scores = _evaluate(gan, state, *points)
    return _output_gaps((images, scores), twin.evaluate(*points, images))


def _gaps(before: GANState, one: tuple[Step, Any, Any], other: tuple[Step, Any, Any]) -> Gaps:
    """The differences of two steps from `before`, and of images and scores after them."""
    lengths = [_update_length(before, step.state) for step, *_ in (one, other)]
    update = {UPDATE: abs(lengths[0] / lengths[1] - 1)}
    return differences(one[0], other[0]) | _output_gaps(one[1:], other[1:]) | update


def _output_gaps(one: tuple[Any, Any], other: tuple[Any, Any]) -> Gaps:
    return {"images": largest_gap(one[0], other[0]), "scores": largest_gap(one[1], other[1])}


def _update_length(before: GANState, after: GANState) -> float:
    old, new = parameters(before), parameters(after)
    moved = [path for path in new if not feeds_batch_norm(path, new)]
    return math.hypot(*(np.linalg.norm(np.asarray(new[p], float) - old[p]) for p in moved))


def _step_inputs(
    gan: GAN, config: TrainConfig, dataset: Dataset, first: int, n_steps: int, seed: int
) -> Iterator[tuple[Batch, jax.Array, Noise]]:
    """The batch, key and noise of each of a run's steps, from the step `first` on."""
    keys, size = run_keys(seed), config.batch_size
    for step in range(first, first + n_steps):
        epoch, i = divmod(step, steps_per_epoch(len(dataset), size))
        if i == 0 or step == first:
            order = np.asarray(epoch_order(keys.order, epoch, len(dataset)))
        rows = order[i * size : (i + 1) * size]
        batch = Batch(dataset.images[rows], dataset.labels[rows])
        key = random.fold_in(keys.steps, step)
        yield batch, key, draw_noise(gan, batch, key)


def _fresh_state(gan: GAN) -> GANState:
    return jax.jit(gan.init)(random.key(0))


def _evaluation_points(gan: GAN) -> tuple[jax.Array, Any]:
    """Latent points and labels, ten of each class."""
    labels = np.arange(10 * gan.generator.n_classes, dtype=np.int32) % gan.generator.n_classes
    return random.normal(random.key(1), (len(labels), gan.generator.latent_dim)), labels


@partial(jax.jit, static_argnames="gan")
def _evaluate(gan: GAN, state: GANState, latent: Any, labels: Any) -> Any:
    images = gan.generator.apply(state.gen.variables, latent, labels, train=False)
    scores = gan.discriminator.apply(state.disc.variables, images, labels, train=False)
    return images, scores


def _labels(labels: Any) -> Tensor:
    return torch.from_numpy(np.array(labels, np.int64))
