"""The same training steps here and in the PyTorch twin, side by side. Needs PyTorch (extra torch).

What a step computed and how two are compared is in trajectory.py; bounds are in parity.py.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import random
from torch import Tensor, nn

from cgan_jax.config import TrainConfig
from cgan_jax.data import Dataset
from cgan_jax.interop import (
    discriminator_from_torch,
    discriminator_to_torch,
    generator_from_torch,
    generator_to_torch,
)
from cgan_jax.model_config import as_report_model
from cgan_jax.training.gan import GAN, GANState
from cgan_jax.training.spans import Spans, steps_per_epoch
from cgan_jax.training.steps import Batch, run_keys, shuffle, train_step
from experiments.proofs import torch_cgan
from experiments.proofs.parity import ALONE, UPDATE
from experiments.proofs.trajectory import (
    Array,
    Net,
    Noise,
    Snapshot,
    differences,
    draw_noise,
    feeds_batch_norm,
    flatten,
    largest_gap,
    make_state,
    shift_idle,
    snapshot,
    with_arrays,
)

Gaps = dict[str, float]

_step = jax.jit(train_step, static_argnames="gan")


class Twin:
    """Both PyTorch networks with their Adams, and what their last step computed.

    Sizes are the configuration's; all other settings are the twin's own, which are the report's.
    """

    def __init__(self, config: TrainConfig, dtype: torch.dtype, seed: int) -> None:
        model = as_report_model(config.model)
        shape = (model.channels, model.img_size, model.img_size)
        torch.manual_seed(seed)
        G = torch_cgan.Generator(model.latent_dim, model.n_classes, model.generator_widths, shape)
        D = torch_cgan.Discriminator(model.n_classes, model.discriminator_widths, shape)
        self.G, self.D = G.to(dtype), D.to(dtype)
        self.optimizers = torch_cgan.make_optimizers(self.G, self.D)
        self._model, self._dtype = model, dtype
        self._fakes: Array
        self.G.register_forward_hook(self._keep_fakes)

    def variables(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Both networks' weights as linen's."""
        return (
            generator_from_torch(_numpy(self.G.state_dict()), self._model),
            discriminator_from_torch(_numpy(self.D.state_dict()), self._model),
        )

    def load(self, other: "Twin") -> None:
        """Take over another twin's weights and moments, in this one's dtype."""
        self.G.load_state_dict(other.G.state_dict())
        self.D.load_state_dict(other.D.state_dict())
        for optimizer, source in zip(self.optimizers, other.optimizers, strict=True):
            optimizer.load_state_dict(deepcopy(source.state_dict()))

    def step(self, batch: Batch, noise: Noise) -> Snapshot:
        """One step on a batch (uint8 images) with this noise."""
        masks = [[torch.from_numpy(np.array(mask)) for mask in layers] for layers in noise.masks]
        torch_cgan.inject_dropout_masks(self.D, masks)
        d_loss, g_loss = torch_cgan.train_step(
            self.G,
            self.D,
            *self.optimizers,
            real=self._images(batch.images) / 127.5 - 1,
            labels=_labels(batch.labels),
            z=torch.from_numpy(np.array(noise.latent)).to(self._dtype),
            fake_labels=_labels(noise.labels),
        )
        gen = self._net(self.G, self.optimizers[0], generator_from_torch)
        disc = self._net(self.D, self.optimizers[1], discriminator_from_torch)
        return Snapshot(d_loss.item(), g_loss.item(), self._fakes, gen, disc)

    @torch.no_grad()
    def evaluate(self, latent: Any, labels: Any, images: Any) -> tuple[Array, Array]:
        """G's images, and D's scores of the given images, in evaluation mode."""
        self.G.eval()
        self.D.eval()
        fakes = self.G(torch.from_numpy(np.array(latent)).to(self._dtype), _labels(labels))
        scores = self.D(self._images(images), _labels(labels))
        return fakes.permute(0, 2, 3, 1).numpy(), scores[:, 0].numpy()

    def _net(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, convert: Callable[..., Any]
    ) -> Net:
        params, buffers = dict(module.named_parameters()), dict(module.named_buffers())

        def arrays(value_of: Callable[[Tensor], Tensor], kind: str = "params") -> dict[str, Array]:
            values = {name: value_of(param) for name, param in params.items()}
            return flatten(convert(_numpy(values | buffers), self._model).get(kind, {}))

        return Net(
            params=arrays(lambda p: p),
            grads=arrays(lambda p: p.grad),  # type: ignore[arg-type, return-value]
            mu=arrays(lambda p: optimizer.state[p]["exp_avg"]),
            nu=arrays(lambda p: optimizer.state[p]["exp_avg_sq"]),
            batch_stats=arrays(lambda p: p, "batch_stats"),
        )

    def _images(self, images: Any) -> Tensor:
        return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).to(self._dtype)

    def _keep_fakes(self, module: nn.Module, args: Any, images: Tensor) -> None:
        self._fakes = images.detach().permute(0, 2, 3, 1).numpy()


class Result(NamedTuple):
    """What a step from `before` computed, and what the networks give in evaluation mode after it.

    The images are floats `[N, H, W, C]`, the scores are those of our images, `[N]`.
    """

    before: GANState
    step: Snapshot
    images: Any
    scores: Any

    def gaps(self, other: "Result") -> Gaps:
        """The differences between this result and another: see `compare_steps`."""
        return differences(self.step, other.step) | {
            "images": largest_gap(self.images, other.images),
            "scores": largest_gap(self.scores, other.scores),
            UPDATE: abs(self.update_length() / other.update_length() - 1),
        }

    def update_length(self) -> float:
        """The norm of what the step added to all parameters but biases before a BatchNorm."""
        nets = (self.before.gen, self.step.gen), (self.before.disc, self.step.disc)
        return math.hypot(
            *(
                np.linalg.norm(after.params[path].astype(np.float64) - array)
                for before, after in nets
                for path, array in flatten(before.params).items()
                if not feeds_batch_norm(path, after.params)
            )
        )


def compare_steps(
    config: TrainConfig, dataset: Dataset, n_steps: int, *, dtype: str, seed: int = 0
) -> Iterator[Gaps]:
    """Train both from the same weights, and compare them after each step.

    Besides what `differences` has, each step's `images` and `scores` are those that the networks
    give in evaluation mode after it, and `length of the update, relative` compares the norms of
    what the step added to all parameters but the biases before a BatchNorm.

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
        state = make_state(gan, *twin.variables())
        points = _evaluation_points(gan)
        first = max(0, steps_per_epoch(len(dataset), config.batch_size) - n_steps // 2)
        for batch, key, noise in _step_inputs(gan, config, dataset, first, n_steps, seed):
            before = state
            state, losses = _step(gan, before, batch, key)
            step = snapshot(gan, before, state, losses, noise, config.optimizer.b1)
            assert step.gen.params["output/kernel"].dtype == dtype
            images, scores = _evaluate(gan, state.gen.variables, state.disc.variables, *points)
            ours = Result(before, step, images, scores)
            theirs = Result(before, twin.step(batch, noise), *twin.evaluate(*points, images))
            gaps = ours.gaps(theirs)
            if exact:
                best = Result(before, exact.step(batch, noise), *exact.evaluate(*points, images))
                gaps |= {f"{name}, {ALONE}": gap for name, gap in theirs.gaps(best).items()}
                state = with_arrays(state, theirs.step)
                exact.load(twin)
            yield gaps


def compare_shifted(
    config: TrainConfig, dataset: Dataset, n_steps: int, *, by: float = 1.0, seed: int = 0
) -> Iterator[Gaps]:
    """Our own steps in float64, against the same ones with other biases before each BatchNorm.

    Shows that those biases have no influence in training, whatever Adam makes of them. The running
    means take them in, so `images` (in evaluation mode) differ until the means have caught up, by
    a share of 0.9^steps.
    """
    with jax.enable_x64(True):
        gan = GAN.from_config(config)
        state = make_state(gan, *Twin(config, torch.float64, seed).variables())
        shifted = replace(state, gen=replace(state.gen, params=shift_idle(state.gen.params, by)))
        states = [state, shifted]
        for batch, key, noise in _step_inputs(gan, config, dataset, 0, n_steps, seed):
            snapshots = []
            for i, before in enumerate(states):
                states[i], losses = _step(gan, before, batch, key)
                snapshots.append(snapshot(gan, before, states[i], losses, noise))
            yield differences(*snapshots)


def compare_images_of_theirs(
    config: TrainConfig, dataset: Dataset, n_batches: int | None = None, seed: int = 0
) -> Gaps:
    """Train PyTorch's networks for an epoch, or its first batches, and use them on both sides."""
    twin, model = Twin(config, torch.float32, seed), config.model
    images = torch_cgan.scale_images(dataset.images)
    batches = torch_cgan.memory_batches(images, _labels(dataset.labels), config.batch_size)
    sizes = model.latent_dim, model.n_classes
    torch_cgan.train_epoch(twin.G, twin.D, *twin.optimizers, islice(batches, n_batches), *sizes)
    return _compare_images(GAN.from_config(config), twin, *twin.variables())


def compare_images_of_ours(
    config: TrainConfig, dataset: Dataset, n_batches: int | None = None, seed: int = 0
) -> Gaps:
    """Train our networks for an epoch, or its first batches, and use them on both sides."""
    gan, keys = GAN.from_config(config), run_keys(seed)
    spans = Spans(gan, dataset, config.batch_size, keys)
    state, step = jax.jit(gan.init)(keys.init), 0
    end = n_batches or steps_per_epoch(len(dataset), config.batch_size)
    while step < end:
        state, span, _ = spans.run(state, step, end - step)
        step += span.n_steps
    gen, disc = state.gen.variables, state.disc.variables
    twin, model = Twin(config, torch.float32, seed), as_report_model(config.model)
    for module, arrays in (
        (twin.G, generator_to_torch(gen, model, end)),
        (twin.D, discriminator_to_torch(disc, model)),
    ):
        tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        module.load_state_dict(tensors, strict=True)
    return _compare_images(gan, twin, gen, disc)


def _compare_images(gan: GAN, twin: Twin, gen: Any, disc: Any) -> Gaps:
    points = _evaluation_points(gan)
    images, scores = _evaluate(gan, gen, disc, *points)
    theirs = twin.evaluate(*points, images)
    return {"images": largest_gap(images, theirs[0]), "scores": largest_gap(scores, theirs[1])}


def _step_inputs(
    gan: GAN, config: TrainConfig, dataset: Dataset, first: int, n_steps: int, seed: int
) -> Iterator[tuple[Batch, jax.Array, Noise]]:
    """The batch, key and noise of each of a run's steps, from the step `first` on."""
    keys, size = run_keys(seed), config.batch_size
    data = Batch(jnp.asarray(dataset.images), jnp.asarray(dataset.labels))
    for step in range(first, first + n_steps):
        epoch, i = divmod(step, steps_per_epoch(len(dataset), size))
        if i == 0 or step == first:
            shuffled = shuffle(data, keys.order, epoch)
        rows = slice(i * size, (i + 1) * size)
        batch = Batch(shuffled.images[rows], shuffled.labels[rows])
        key = random.fold_in(keys.steps, step)
        yield batch, key, draw_noise(gan, key, len(batch.labels))


def _evaluation_points(gan: GAN) -> tuple[jax.Array, Array]:
    """Latent points and labels, ten of each class."""
    labels = np.arange(10 * gan.generator.n_classes, dtype=np.int32) % gan.generator.n_classes
    return random.normal(random.key(1), (len(labels), gan.generator.latent_dim)), labels


@partial(jax.jit, static_argnames="gan")
def _evaluate(gan: GAN, gen: Any, disc: Any, latent: Any, labels: Any) -> Any:
    images = gan.generator.apply(gen, latent, labels, train=False)
    return images, gan.discriminator.apply(disc, images, labels, train=False)


def _labels(labels: Any) -> Tensor:
    return torch.from_numpy(np.array(labels, np.int64))


def _numpy(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}
