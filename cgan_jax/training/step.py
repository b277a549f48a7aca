"""The hot path: one training step, and the pieces that it and a step of your own are made of.

All of it is pure. The loop over many steps is in loop.py; the clock is `state.step`, from which,
with a key, order and noise derive.
"""

from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax, random

from cgan_jax.checks import check_seed
from cgan_jax.data.sources import Batch
from cgan_jax.errors import ConfigError
from cgan_jax.losses import DiscOutput
from cgan_jax.models.value_range import to_unit_range
from cgan_jax.training.averaging import evaluation_params, is_schedule_free
from cgan_jax.training.gan import (
    GAN,
    GANState,
    NetState,
    condition_dim,
    image_shape,
    scores_of,
)
from cgan_jax.training.penalties import ScoreFn
from cgan_jax.training.prng import THREEFRY, jax_threefry
from cgan_jax.training.sharding import shard_batch

Labelled = tuple[jax.Array, jax.Array]
"""Images in [-1, 1], `[B, H, W, C]`, or latent points, and their labels."""


class Losses(NamedTuple):
    """The two players' losses before a step's updates: float scalars, or `[n]` for n steps."""

    d_loss: jax.Array
    g_loss: jax.Array


class RunKeys(NamedTuple):
    """A run's three independent streams of randomness.

    Any keys of `jax.random` work; those of `run_keys` are the fastest on a CPU.

    Attributes:
        init: key of the networks' first weights.
        order: key of the order of the images in each epoch.
        steps: key of latent points, labels and dropout; step s uses `fold_in(steps, s)`.
    """

    init: jax.Array
    order: jax.Array
    steps: jax.Array


def run_keys(seed: int | jax.Array) -> RunKeys:
    """The streams of a run's seed: `jax.random.split(jax.random.key(seed), 3)`.

    Args:
        seed: in [0, 2**32).

    Raises:
        ConfigError: the seed is not an integer in [0, 2**32).
    """
    if not isinstance(seed, jax.core.Tracer):
        seed = check_seed(seed)
    return _run_keys(jnp.asarray(seed, np.uint32))


@jax.jit
def _run_keys(seed: jax.Array) -> RunKeys:
    return RunKeys(*random.split(random.key(seed, impl=THREEFRY), 3))


class Step(Protocol):
    """What `train` and `run_steps` take as `step`: pure, with the signature of `train_step`."""

    def __call__(
        self, gan: GAN, state: GANState, batch: Batch, key: jax.Array
    ) -> tuple[GANState, Losses]: ...


def train_step(gan: GAN, state: GANState, batch: Batch, key: jax.Array) -> tuple[GANState, Losses]:
    """Update the generator, then the discriminator, in the report's order.

    1. Draw latent points and uniform labels (not the batch's, unless the loss is paired), and make
       the fakes.
    2. Generator: descend its loss on D(fake), with D's dropout active.
    3. Discriminator: descend its loss on the real batch and on the *same* fakes, made before the
       generator's update, with no gradient into them and with fresh dropout masks.
    4. Average: take the updated generator into its running average.

    Real and fake images go through D in one pass. If the loss is paired, they go in two, the real
    ones first, each with batch statistics of its own. Both losses then need both scores; XLA
    computes these once, unless D is random (dropout, augmentation).

    With `gan.disc_steps` n, the batch has n parts. On all but the last one D alone is updated, with
    fakes of its own, before the rest of the step; so there are n updates of D between two of G.

    Penalty, augmentation, average and pairing are static: what `gan` lacks is not in the program.
    A penalty may be left out in some steps: see `cgan_jax.training.penalties`.

    Args:
        gan: networks, optimizers and loss (static under jit).
        state: the state before the step.
        batch: B real images and labels.
        key: the source of all of this step's randomness.

    Returns:
        the state one step later, and the losses before its updates; the penalty is not in them.

    Raises:
        ConfigError: the batch is not what these networks take.
    """
    check_batch(gan, batch)
    if penalty_period(gan) > 1:
        return in_due_steps(train_step, gan, state, batch, key)
    gen, disc = update_networks(gan, state, batch, key)
    return next_state(gan, state, gen.net, disc.net), Losses(disc.loss, gen.loss)


def update_networks(
    gan: GAN, state: GANState, batch: Batch, key: jax.Array
) -> tuple["GeneratorUpdate", "DiscriminatorUpdate"]:
    """All updates of a step; with `next_state`, they are `train_step`.

    A step of your own can look at what they give, or pass a GAN with parts that depend on
    `state.extra`, as by `replace(gan, augment=...)`.

    Args:
        gan: networks, optimizers, loss and more.
        state: the state before the step.
        batch: B real images and labels.
        key: the source of all of this step's randomness.

    Returns:
        the updated networks with their losses; of several updates of D, the last one with the mean
        of all losses.
    """
    d_losses: list[jax.Array] = []
    if gan.disc_steps > 1:
        state, batch, d_losses = _update_discriminator_alone(gan, state, batch, key)
    keys = step_keys(gan, key)
    inputs = sample_inputs(gan, batch, keys)
    batch, inputs = shard_batch((batch, inputs))
    real = real_images(batch)

    gen = update_generator(gan, state, inputs, real, keys)
    # The fakes from before the generator's update; constants to the discriminator's loss.
    disc = update_discriminator(gan, state, real, (gen.images, inputs[1]), keys)
    if d_losses:
        disc = disc._replace(loss=jnp.stack([*d_losses, disc.loss]).mean())
    return gen, disc


class GeneratorUpdate(NamedTuple):
    """What `update_generator` returns.

    Attributes:
        net: the updated generator.
        images: its fakes from before the update, in [-1, 1], `[B, H, W, C]`.
        loss: a float scalar.
    """

    net: NetState
    images: jax.Array
    loss: jax.Array


class DiscriminatorUpdate(NamedTuple):
    """What `update_discriminator` returns.

    Attributes:
        net: the updated discriminator.
        loss: without the penalty, a float scalar.
        real: what D made of the real images, before the update.
        fake: what it made of the fakes.
    """

    net: NetState
    loss: jax.Array
    real: DiscOutput
    fake: DiscOutput


def sample_inputs(gan: GAN, batch: Batch, keys: "StepKeys") -> Labelled:
    """The generator's inputs for one batch.

    Returns:
        latent points from N(0, 1), `[B, latent_dim]`, and labels: the batch's own for a paired
        loss, otherwise uniform ids; or vectors, which are those of the batch in another order, and
        so drawn from the data's.
    """
    n = len(batch.labels)
    latent_BxZ = random.normal(keys.latent, (n, gan.generator.latent_dim))
    if gan.loss.paired:
        return latent_BxZ, batch.labels
    if condition_dim(gan.generator) is not None:
        return latent_BxZ, random.permutation(jax_threefry(keys.labels), batch.labels)
    return latent_BxZ, random.randint(keys.labels, (n,), 0, gan.generator.n_classes)


def real_images(batch: Batch) -> Labelled:
    """A batch's images in [-1, 1], and their labels."""
    return to_unit_range(batch.images), batch.labels


def generate_fakes(
    gan: GAN, gen: NetState, inputs: Labelled, keys: "StepKeys"
) -> tuple[jax.Array, NetState]:
    """A generator's images in training mode, and the generator with its updated statistics."""
    noise = random.fold_in(keys.latent, np.uint32(2**32 - 1))
    return _apply(gan.generator, gen, inputs, jax_threefry(noise))


def update_generator(
    gan: GAN, state: GANState, inputs: Labelled, real: Labelled, keys: "StepKeys"
) -> GeneratorUpdate:
    """One update of the generator.

    Args:
        gan: networks, optimizer and loss.
        state: the state before.
        inputs: those of `sample_inputs`.
        real: real images in [-1, 1], which a paired loss compares the fakes with, and their labels.
        keys: those of `step_keys`.
    """

    def loss(params: Any) -> tuple[jax.Array, Any]:
        images, gen = generate_fakes(gan, state.gen.replace(params=params), inputs, keys)
        fake = images, inputs[1]
        if gan.loss.paired:
            *outputs, _ = _both_outputs(gan, state.disc, real, fake, keys.gen)
        else:
            *outputs, _ = disc_output(gan, state.disc, fake, keys.gen)
        return gan.loss.of_generator(*outputs).mean(), (images, gen)

    (g_loss, (images, gen)), grads = jax.value_and_grad(loss, has_aux=True)(state.gen.params)
    return GeneratorUpdate(
        _update(gan.gen_optimizer, gen, state.gen, grads, g_loss), images, g_loss
    )


def update_discriminator(
    gan: GAN, state: GANState, real: Labelled, fake: Labelled, keys: "StepKeys"
) -> DiscriminatorUpdate:
    """One update of the discriminator.

    Args:
        gan: networks, optimizer, loss, penalty and augmentation.
        state: the state before.
        real: real images in [-1, 1], and their labels.
        fake: the same of the fakes, which are constants here.
        keys: those of `step_keys`.

    Raises:
        ConfigError: the penalty is due in some steps only, and nothing has decided in which.
    """
    if penalty_period(gan) > 1:
        raise ConfigError(
            f"the penalty is due in every {penalty_period(gan)}th step\n"
            "expected a step that knows whether it is due in this one\n"
            "Call it by train(step=...), run_steps or in_due_steps."
        )

    def loss(params: Any) -> tuple[jax.Array, Any]:
        disc = state.disc.replace(params=params)
        on_real, on_fake, updated = _both_outputs(gan, disc, real, fake, keys.disc)
        d_loss = gan.loss.of_discriminator(on_real, on_fake).mean()
        total = d_loss
        if gan.penalty:
            score = ScoreFn(
                lambda images, labels: disc_output(gan, disc, (images, labels), keys.disc)[0].output
            )
            penalty = gan.penalty(score, real, fake, step=state.step, key=keys.penalty)
            total = d_loss + penalty
        return total, (d_loss, on_real, on_fake, updated)

    (total, aux), grads = jax.value_and_grad(loss, has_aux=True)(state.disc.params)
    d_loss, on_real, on_fake, updated = aux
    net = _update(gan.disc_optimizer, updated, state.disc, grads, total)
    return DiscriminatorUpdate(net, d_loss, on_real, on_fake)


def next_state(
    gan: GAN, state: GANState, gen: NetState, disc: NetState, extra: Any = None
) -> GANState:
    """The state after a step: one step later, with the updated networks and average.

    Args:
        gan: says how the generator is averaged.
        state: the state before the step.
        gen: the updated generator.
        disc: the updated discriminator.
        extra: the next `GANState.extra`; by default it stays.
    """
    step, average = state.step + 1, None
    if gan.average or is_schedule_free(gen.opt_state):
        average = {**gen.variables, "params": evaluation_params(gen.opt_state, gen.params)}
    if gan.average:
        average = gan.average(state.average, average, step)
    return GANState(step, gen, disc, average, state.extra if extra is None else extra)


def disc_output(
    gan: GAN, disc: NetState, labelled: Labelled, keys: "PassKeys"
) -> tuple[DiscOutput, NetState]:
    """What D in training mode makes of images, augmented; and D with its updated statistics."""
    images, labels = labelled
    augmented = gan.augment(images, keys.augment) if gan.augment else images
    output, updated = _apply(gan.discriminator, disc, (augmented, labels), keys.dropout)
    return DiscOutput(scores_of(output, len(images)), output, images, labels), updated


def _both_outputs(
    gan: GAN, disc: NetState, real: Labelled, fake: Labelled, keys: "PassKeys"
) -> tuple[DiscOutput, DiscOutput, NetState]:
    """What D makes of the real and of the fake images, and D with its updated statistics."""
    if gan.loss.paired:
        on_real, disc = disc_output(gan, disc, real, keys)
        on_fake, disc = disc_output(gan, disc, fake, keys.next())
        return on_real, on_fake, disc
    both = jax.tree.map(lambda *halves: jnp.concatenate(halves), real, fake)
    on_both, disc = disc_output(gan, disc, both, keys)
    n = len(on_both.scores) // 2  # slices: with jnp.split the gradients' last digits are others
    on_real, on_fake = (
        jax.tree.map(lambda leaf, rows=rows: leaf[rows], on_both)
        for rows in (slice(n), slice(n, None))
    )
    return on_real, on_fake, disc


def _update_discriminator_alone(
    gan: GAN, state: GANState, batch: Batch, key: jax.Array
) -> tuple[GANState, Batch, list[jax.Array]]:
    """D's updates before the generator's: the state, the batch's last part, and D's losses.

    A batch with fewer than two images for each update has fewer updates.
    """
    n = max(1, min(gan.disc_steps, len(batch.labels) // 2))
    size = len(batch.labels) // n
    early = jax.tree.map(
        lambda rows: rows[: size * (n - 1)].reshape(n - 1, size, *rows.shape[1:]), batch
    )

    def update(state: GANState, turn: tuple[jax.Array, Batch]) -> tuple[GANState, jax.Array]:
        number, part = turn
        keys = step_keys(gan, random.fold_in(key, number))
        inputs = sample_inputs(gan, part, keys)
        part, inputs = shard_batch((part, inputs))
        images, gen = generate_fakes(gan, state.gen, inputs, keys)
        real = real_images(part)
        disc = update_discriminator(gan, state, real, (images, inputs[1]), keys)
        return replace(state, gen=gen, disc=disc.net), disc.loss

    state, d_losses = lax.scan(update, state, (jnp.arange(n - 1, dtype=jnp.uint32), early))
    rest = jax.tree.map(lambda rows: rows[size * (n - 1) :], batch)
    return state, rest, list(d_losses)


def penalty_period(gan: GAN) -> int:
    """Steps from one penalty to the next."""
    every: int = getattr(gan.penalty, "every", 1)
    return every


def in_due_steps(
    step: Step, gan: GAN, state: GANState, batch: Batch, key: jax.Array
) -> tuple[GANState, Losses]:
    """A step with the penalty if it is due after `state.step` steps, otherwise without.

    A loop of no turn or one is a choice for which XLA does not copy the state, as it does for
    `lax.cond`. A choice within the step would compute a second time, beside the penalty, what the
    penalty shares with the losses.
    """
    due, plain = with_and_without_penalty(gan)

    def turn(gan: GAN, carry: tuple[GANState, Losses]) -> tuple[GANState, Losses]:
        return step(gan, carry[0], batch, key)

    is_due = (state.step % penalty_period(gan) == 0).astype(jnp.int32)
    no_losses = jax.eval_shape(partial(step, plain), state, batch, key)[1]
    carry = state, jax.tree.map(lambda loss: jnp.zeros(loss.shape, loss.dtype), no_losses)
    carry = lax.fori_loop(0, is_due, lambda _, carry: turn(due, carry), carry)
    return lax.fori_loop(is_due, 1, lambda _, carry: turn(plain, carry), carry)


@lru_cache
def with_and_without_penalty(gan: GAN) -> tuple[GAN, GAN]:
    """The GAN of a step in which the penalty is due, and that of a step in which it is not."""
    return replace(gan, penalty=_Due(gan.penalty)), replace(gan, penalty=None)


class _Due:
    """A penalty in a step for which it was decided that it is due."""

    def __init__(self, penalty: Any) -> None:
        self._penalty = penalty

    def __call__(self, *args: Any, **kwargs: Any) -> jax.Array:
        value: jax.Array = self._penalty(*args, **kwargs)
        return value


class PassKeys(NamedTuple):
    """The keys of one pass through D; None for a use that the recipe lacks."""

    dropout: jax.Array
    augment: Any = None

    def next(self) -> "PassKeys":
        """Those of a second pass; a number that no split of the first one's keys reaches."""
        return jax.tree.map(lambda key: random.fold_in(key, np.uint32(2**32 - 1)), self)


class StepKeys(NamedTuple):
    """One key for each use of randomness in a step; None for a use that the recipe lacks."""

    latent: jax.Array
    labels: jax.Array
    gen: PassKeys
    disc: PassKeys
    penalty: Any = None


def step_keys(gan: GAN, key: jax.Array) -> StepKeys:
    """A step's keys; those that only some recipes need come last, so that the others stay."""
    if not (gan.augment or gan.penalty):
        latent, labels, gen, disc = random.split(key, 4)
        return StepKeys(latent, labels, PassKeys(gen), PassKeys(disc))
    (latent, labels, gen, disc), users = jnp.split(random.split(key, 7), [4])
    in_gen, in_disc, penalty = (jax_threefry(key) for key in users)  # for functions of the user's
    return StepKeys(latent, labels, PassKeys(gen, in_gen), PassKeys(disc, in_disc), penalty)


def check_batch(gan: GAN, batch: Batch) -> None:
    """Raises ConfigError if a batch is not what the networks take; runs once, at tracing."""
    images, labels, generator = batch.images, batch.labels, gan.generator
    expected, width = image_shape(generator), condition_dim(generator)
    good = images.dtype == np.uint8 and images.shape[1:] == expected and len(images) > 1
    kind, row = (np.integer, ()) if width is None else (np.floating, (width,))
    if not good or labels.shape != (len(images), *row) or not jnp.issubdtype(labels.dtype, kind):
        what = "integers [B]" if width is None else f"floats [B, {width}]"
        raise ConfigError(
            f"the batch has images {images.dtype} {list(images.shape)} and labels {labels.dtype} "
            f"{list(labels.shape)}\nexpected uint8 [B, {', '.join(map(str, expected))}] and "
            f"{what}, B at least 2\nPass the images as they are, from 0 to 255."
        )


def _apply(
    module: nn.Module, net: NetState, inputs: Labelled, key: jax.Array
) -> tuple[Any, NetState]:
    """One network in training mode: its output, and it with its updated statistics.

    It may draw from `dropout`, `noise`, or streams of other names, for which Flax takes `params`.
    """
    others = {
        name: random.fold_in(key, np.uint32(2**32 - number))
        for number, name in ((2, "noise"), (3, "params"))
    }
    output, updated = module.apply(
        net.variables, *inputs, train=True, rngs={"dropout": key, **others}, mutable=net.statistics
    )
    return output, net.replace(**updated)


def _update(
    optimizer: optax.GradientTransformation,
    updated: NetState,
    before: NetState,
    grads: Any,
    loss: jax.Array,
) -> NetState:
    """A network after its optimizer's move, with the statistics of `updated`."""
    optimizer = optax.with_extra_args_support(optimizer)
    updates, opt_state = optimizer.update(grads, before.opt_state, before.params, value=loss)
    params = optax.apply_updates(before.params, updates)
    return updated.replace(params=params, opt_state=opt_state)
