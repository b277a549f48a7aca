"""The same training steps here and in the PyTorch twin, side by side. Needs PyTorch (extra torch).

What a step left behind and how two are compared is in trajectory.py; bounds are in parity.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
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
from cgan_jax.training.gan import GAN, GANState
from cgan_jax.training.spans import Spans, steps_per_epoch
from cgan_jax.training.steps import Batch, run_keys, train_step
from experiments.proofs import torch_cgan
from experiments.proofs.trajectory import (
    Array,
    Net,
    Noise,
    Snapshot,
    clock_batches,
    differences,
    draw_noise,
    flatten,
    make_state,
    shift_idle,
    snapshot,
)

_step = jax.jit(train_step, static_argnames="gan")


class Twin:
    """Both PyTorch networks with their Adams, and what their last step computed.

    Sizes are the configuration's; all other settings are the twin's own, which are the report's.
    """

    def __init__(self, config: TrainConfig, dtype: torch.dtype, seed: int) -> None:
        model = config.model
        shape = (model.channels, model.img_size, model.img_size)
        torch.manual_seed(seed)
        self.G = torch_cgan.Generator(
            model.latent_dim, model.n_classes, model.generator_widths, shape
        ).to(dtype)
        self.D = torch_cgan.Discriminator(model.n_classes, model.discriminator_widths, shape).to(
            dtype
        )
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

    def step(self, batch: Batch, noise: Noise) -> Snapshot:
        """One step on a batch (uint8 images) with this noise."""
        masks = [[torch.from_numpy(np.array(mask)) for mask in layers] for layers in noise.masks]
        torch_cgan.inject_dropout_masks(self.D, masks)
        images = torch.from_numpy(np.array(batch.images)).permute(0, 3, 1, 2)
        d_loss, g_loss = torch_cgan.train_step(
            self.G,
            self.D,
            *self.optimizers,
            real=images.to(self._dtype) / 127.5 - 1,
            labels=_labels(batch.labels),
            z=torch.from_numpy(np.array(noise.latent)).to(self._dtype),
            fake_labels=_labels(noise.labels),
        )
        return Snapshot(d_loss.item(), g_loss.item(), self._fakes, *self._nets())

    def _nets(self) -> Iterator[Net]:
        for module, optimizer, convert in (
            (self.G, self.optimizers[0], generator_from_torch),
            (self.D, self.optimizers[1], discriminator_from_torch),
        ):
            buffers = dict(module.named_buffers())

            def tree(
                values: Mapping[str, Tensor], buffers: Any = buffers, convert: Any = convert
            ) -> dict[str, Any]:
                return convert(_numpy({**values, **buffers}), self._model)

            params = dict(module.named_parameters())
            adam = {name: optimizer.state[p] for name, p in params.items()}
            grads = {name: p.grad for name, p in params.items() if p.grad is not None}
            variables = tree(params)
            yield Net(
                params=flatten(variables["params"]),
                grads=flatten(tree(grads)["params"]),
                mu=flatten(tree({n: s["exp_avg"] for n, s in adam.items()})["params"]),
                nu=flatten(tree({n: s["exp_avg_sq"] for n, s in adam.items()})["params"]),
                batch_stats=flatten(variables.get("batch_stats", {})),
            )

    def _keep_fakes(self, module: nn.Module, args: Any, images: Tensor) -> None:
        self._fakes = images.detach().permute(0, 2, 3, 1).numpy()


def compare_steps(
    config: TrainConfig, dataset: Dataset, n_steps: int, *, dtype: str, seed: int = 0
) -> Iterator[dict[str, float]]:
    """Train both from the same weights, and tell how far they differ after each step.

    Besides what `differences` has, each step's `images` and `scores` are those that the networks
    give in evaluation mode after it.

    The weights are PyTorch's. Batches, z, labels and dropout masks are those of our run with this
    seed, from half of the steps before the end of its first epoch on, so that the epoch's last,
    smaller batch is among them. Our side is `train_step` as it stands: it draws its noise itself,
    and the same noise is drawn once more for PyTorch.

    In float32, `D loss, PyTorch alone` and the like tell how far PyTorch's losses are from those of
    its own float64: how much of a difference float32 makes by itself. About one run in five has a
    step in which rounding turns the sign of an activation that is all but zero; LeakyReLU's
    gradient jumps there, and with it the trajectory, in PyTorch as here.

    Args:
        config: sizes, batch size; the rest must be the report's.
        dataset: the training images.
        n_steps: how many steps.
        dtype: `float32` or `float64`, of everything on both sides.
        seed: of PyTorch's weights and of our run.
    """
    with jax.enable_x64(dtype == "float64"):
        gan, keys = GAN.from_config(config), run_keys(seed)
        twin = Twin(config, getattr(torch, dtype), seed)
        exact = Twin(config, torch.float64, seed) if dtype == "float32" else None
        state = make_state(gan, *twin.variables())
        first = max(0, steps_per_epoch(len(dataset), config.batch_size) - n_steps // 2)
        for step, batch in clock_batches(dataset, keys.order, first, n_steps, config.batch_size):
            key = random.fold_in(keys.steps, step)
            noise = draw_noise(gan, state.disc.params, key, len(batch.labels))
            before = state
            state, losses = _step(gan, before, batch, key)
            ours = snapshot(gan, before, state, losses, noise, config.optimizer.b1)
            assert ours.gen.params["output/kernel"].dtype == dtype
            theirs = twin.step(batch, noise)
            gaps = differences(ours, theirs) | _compare_outputs(gan, twin, *_variables(state))
            if exact:
                best = exact.step(batch, noise)
                gaps["D loss, PyTorch alone"] = abs(theirs.d_loss - best.d_loss)
                gaps["G loss, PyTorch alone"] = abs(theirs.g_loss - best.g_loss)
            yield gaps


def compare_shifted(
    config: TrainConfig, dataset: Dataset, n_steps: int, *, by: float = 1.0, seed: int = 0
) -> Iterator[dict[str, float]]:
    """Our own steps in float64, against the same ones with other biases before each BatchNorm.

    Shows that those biases have no influence in training, whatever Adam makes of them. The running
    means take them in, with what the last ten steps or so added to them still under way; `images`
    (in evaluation mode) therefore differ by a share of 0.9^steps.
    """
    with jax.enable_x64(True):
        gan, keys = GAN.from_config(config), run_keys(seed)
        state = make_state(gan, *Twin(config, torch.float64, seed).variables())
        shifted = replace(state, gen=replace(state.gen, params=shift_idle(state.gen.params, by)))
        for step, batch in clock_batches(dataset, keys.order, 0, n_steps, config.batch_size):
            key = random.fold_in(keys.steps, step)
            noise = draw_noise(gan, state.disc.params, key, len(batch.labels))
            sides = []
            for before in (state, shifted):
                after, losses = _step(gan, before, batch, key)
                sides.append((after, snapshot(gan, before, after, losses, noise)))
            (state, one), (shifted, other) = sides
            yield differences(one, other)


def compare_images_of_theirs(
    config: TrainConfig, dataset: Dataset, n_batches: int | None = None, seed: int = 0
) -> dict[str, float]:
    """Train PyTorch's networks for an epoch, or its first batches, and use them on both sides."""
    twin = Twin(config, torch.float32, seed)
    images = torch_cgan.scale_images(dataset.images)
    batches = torch_cgan.memory_batches(images, _labels(dataset.labels), config.batch_size)
    torch_cgan.train_epoch(
        twin.G,
        twin.D,
        *twin.optimizers,
        (batch for _, batch in zip(range(n_batches or len(images)), batches, strict=False)),
        config.model.latent_dim,
        config.model.n_classes,
    )
    return _compare_outputs(GAN.from_config(config), twin, *twin.variables())


def compare_images_of_ours(
    config: TrainConfig, dataset: Dataset, n_batches: int | None = None, seed: int = 0
) -> dict[str, float]:
    """Train our networks for an epoch, or its first batches, and use them on both sides."""
    gan, keys = GAN.from_config(config), run_keys(seed)
    state = jax.jit(gan.init)(keys.init)
    spans = Spans(gan, dataset, config.batch_size, keys)
    step, end = 0, n_batches or steps_per_epoch(len(dataset), config.batch_size)
    while step < end:
        state, span, _ = spans.run(state, step, end - step)
        step += span.n_steps
    gen, disc = _variables(state)
    twin = Twin(config, torch.float32, seed)
    for module, arrays in (
        (twin.G, generator_to_torch(gen, config.model, end)),
        (twin.D, discriminator_to_torch(disc, config.model)),
    ):
        tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        module.load_state_dict(tensors, strict=True)
    return _compare_outputs(gan, twin, gen, disc)


def _compare_outputs(gan: GAN, twin: Twin, gen: Any, disc: Any) -> dict[str, float]:
    """The generator's images and their scores in evaluation mode, ten of each class."""
    labels = np.arange(10 * gan.generator.n_classes, dtype=np.int32) % gan.generator.n_classes
    latent = random.normal(random.key(1), (len(labels), gan.generator.latent_dim))
    images, scores = _evaluate(gan, gen, disc, latent, labels)
    twin.G.eval()
    twin.D.eval()
    with torch.no_grad():
        made = twin.G(torch.from_numpy(np.array(latent)), _labels(labels))
        scored = twin.D(torch.from_numpy(np.array(images)).permute(0, 3, 1, 2), _labels(labels))
    return {
        "images": float(np.abs(np.asarray(images) - made.permute(0, 2, 3, 1).numpy()).max()),
        "scores": float(np.abs(np.asarray(scores) - scored[:, 0].numpy()).max()),
    }


def _variables(state: GANState) -> tuple[dict[str, Any], dict[str, Any]]:
    return state.gen.variables, {"params": state.disc.params}


@partial(jax.jit, static_argnames="gan")
def _evaluate(gan: GAN, gen: Any, disc: Any, latent: Any, labels: Any) -> Any:
    images = gan.generator.apply(gen, latent, labels, train=False)
    return images, gan.discriminator.apply(disc, images, labels, train=False)


def _labels(labels: Any) -> Tensor:
    return torch.from_numpy(np.array(labels, np.int64))


def _numpy(tensors: dict[str, Tensor]) -> dict[str, Array]:
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}
