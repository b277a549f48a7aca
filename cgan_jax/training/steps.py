"""The hot path: one training step, and a loop over a span of them. Pure; jitted by the caller.

The clock is `state.step`: order and noise derive from it and a key; nothing else is stored.
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax, random

from cgan_jax.checks import check_seed
from cgan_jax.errors import ConfigError
from cgan_jax.models.value_range import to_unit_range
from cgan_jax.training.gan import GAN, GANState, NetState, image_shape
from cgan_jax.training.prng import THREEFRY, jax_threefry
from cgan_jax.training.sharding import shard_batch

Labelled = tuple[jax.Array, jax.Array]  # images in [-1, 1] or latent points, and their labels


class Batch(NamedTuple):
    """Real images and their labels: a batch, or a whole data set.

    Attributes:
        images: uint8 `[N, H, W, C]`.
        labels: int32 `[N]`.
    """

    images: jax.Array
    labels: jax.Array


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
    _check(batch, gan)
    every = getattr(gan.penalty, "every", 1)
    if every == 1:
        return _step(gan, state, batch, key)
    # A choice between two whole steps: within one, XLA would compute a second time, beside the
    # penalty, what the penalty shares with the losses.
    without = replace(gan, penalty=None)
    is_due = state.step % every == 0
    return lax.cond(is_due, partial(_step, gan), partial(_step, without), state, batch, key)


def _step(gan: GAN, state: GANState, batch: Batch, key: jax.Array) -> tuple[GANState, Losses]:
    """The step with every part that `gan` has."""
    keys = _split(key, gan)
    latent_BxZ, fake_labels_B = generator_inputs(gan, keys.latent, keys.labels, len(batch.labels))
    if gan.loss.paired:
        fake_labels_B = batch.labels
    batch, latent_BxZ, fake_labels_B = shard_batch((batch, latent_BxZ, fake_labels_B))
    real = to_unit_range(batch.images), batch.labels

    inputs = latent_BxZ, fake_labels_B
    gen, images, g_loss = _update_generator(gan, state, inputs, real, keys)
    # The fakes from before the generator's update; constants to the discriminator's loss.
    disc, d_loss = _update_discriminator(gan, state, real, (images, fake_labels_B), keys)

    step, average = state.step + 1, None
    if gan.average:
        average = gan.average(state.average, gen.variables, step)
    return GANState(step, gen, disc, average), Losses(d_loss, g_loss)


def _update_generator(
    gan: GAN, state: GANState, inputs: Labelled, real: Labelled, keys: "StepKeys"
) -> tuple[NetState, jax.Array, jax.Array]:
    """The updated generator, the images from before its update, and its loss."""
    latent_BxZ, fake_labels_B = inputs

    def loss(params: Any) -> tuple[jax.Array, Any]:
        gen = replace(state.gen, params=params)
        images, stats = _apply(gan.generator, gen, latent_BxZ, fake_labels_B)
        fake = images, fake_labels_B
        scores: tuple[jax.Array, ...]
        if gan.loss.paired:
            scores, _ = _scores(gan, state.disc, real, fake, keys.gen)
        else:
            scores = (_score(gan, state.disc, fake, keys.gen)[0],)
        return gan.loss.generator(*scores).mean(), (images, stats)

    (g_loss, (images, stats)), grads = jax.value_and_grad(loss, has_aux=True)(state.gen.params)
    return _update(gan.gen_optimizer, state.gen, grads, stats), images, g_loss


def _update_discriminator(
    gan: GAN, state: GANState, real: Labelled, fake: Labelled, keys: "StepKeys"
) -> tuple[NetState, jax.Array]:
    """The updated discriminator, and its loss without the penalty."""

    def loss(params: Any) -> tuple[jax.Array, Any]:
        disc = replace(state.disc, params=params)
        scores, stats = _scores(gan, disc, real, fake, keys.disc)
        d_loss = gan.loss.discriminator(*scores).mean()
        if not gan.penalty:
            return d_loss, (d_loss, stats)
        penalty = gan.penalty(
            lambda images, labels: _score(gan, disc, (images, labels), keys.disc)[0],
            real,
            fake,
            step=state.step,
            key=keys.penalty,
        )
        return d_loss + penalty, (d_loss, stats)

    (_, (d_loss, stats)), grads = jax.value_and_grad(loss, has_aux=True)(state.disc.params)
    return _update(gan.disc_optimizer, state.disc, grads, stats), d_loss


def _scores(
    gan: GAN, disc: NetState, real: Labelled, fake: Labelled, keys: "PassKeys"
) -> tuple[tuple[jax.Array, jax.Array], Any]:
    """The scores of the real and of the fake images, and D's updated batch statistics."""
    if gan.loss.paired:
        real_B, stats = _score(gan, disc, real, keys)
        fake_B, stats = _score(gan, replace(disc, batch_stats=stats), fake, keys.next())
        return (real_B, fake_B), stats
    images, labels = (jnp.concatenate(pair) for pair in zip(real, fake, strict=True))
    scores_2B, stats = _score(gan, disc, (images, labels), keys)
    n = len(scores_2B) // 2  # slices: with jnp.split the gradients' last digits are others
    return (scores_2B[:n], scores_2B[n:]), stats


def _score(gan: GAN, disc: NetState, labelled: Labelled, keys: "PassKeys") -> tuple[jax.Array, Any]:
    """D's scores, augmentation included, and its updated batch statistics."""
    images, labels = labelled
    if gan.augment:
        images = gan.augment(images, keys.augment)
    return _apply(gan.discriminator, disc, images, labels, keys.dropout)


def shuffle(data: Batch, key: jax.Array, epoch: int | jax.Array) -> Batch:
    """The whole data set in the order in which one epoch takes it; every epoch has its own.

    Args:
        data: N images and labels.
        key: `RunKeys.order`.
        epoch: counted from 0.

    Returns:
        the same images and labels in another order.
    """
    return take(data, epoch_order(key, epoch, len(data.labels)))


def epoch_order(key: jax.Array, epoch: int | jax.Array, n_images: int) -> jax.Array:
    """The order of `shuffle`: indices of images, int32 `[N]`."""
    return random.permutation(random.fold_in(key, epoch), n_images)


def take(data: Batch, order_N: jax.Array) -> Batch:
    """The images and labels with the given indices, in their order."""
    images, labels = (array[order_N] for array in data)
    return Batch(images, labels)


def train_steps(
    gan: GAN,
    state: GANState,
    shuffled: Batch,
    key: jax.Array,
    n_steps: int | jax.Array,
    *,
    batch_size: int,
    last_batch: bool = False,
) -> tuple[GANState, Losses]:
    """Take `n_steps` training steps from `state.step` on, all within one epoch.

    An epoch takes the shuffled data in `ceil(N / batch_size)` batches. The last one may be smaller,
    so it needs a call of its own. `cgan_jax.training.spans.next_span` cuts a run into such calls.

    Jit it with `gan`, `batch_size` and `last_batch` static. `n_steps` may be traced, so that one
    compiled program serves spans of every length, or static, so that XLA knows the trip count.

    Args:
        gan: networks, optimizers and loss.
        state: the state before the steps; donate it.
        shuffled: the whole data set, N images, in this epoch's order: see `shuffle`.
        key: `RunKeys.steps`; step s uses `fold_in(key, s)`.
        n_steps: number of steps.
        batch_size: images per step.
        last_batch: whether this is the epoch's last step, on the remaining images.

    Returns:
        the state after the steps, and the losses of each, `[ceil(N / batch_size)]` long, of which
        the first `n_steps` are filled.
    """
    n_images = len(shuffled.labels)
    steps_per_epoch = -(-n_images // batch_size)
    rows = n_images - (steps_per_epoch - 1) * batch_size if last_batch else batch_size

    def body(i: jax.Array, carry: tuple[GANState, Losses]) -> tuple[GANState, Losses]:
        state, losses = carry
        start = state.step % steps_per_epoch * batch_size
        batch = jax.tree.map(lambda array: lax.dynamic_slice_in_dim(array, start, rows), shuffled)
        state, now = train_step(gan, state, batch, random.fold_in(key, state.step))
        return state, jax.tree.map(lambda all_, one: all_.at[i].set(one), losses, now)

    no_losses = Losses(jnp.zeros(steps_per_epoch), jnp.zeros(steps_per_epoch))
    return lax.fori_loop(0, n_steps, body, (state, no_losses))


def generator_inputs(
    gan: GAN, latent_key: jax.Array, label_key: jax.Array, n: int
) -> tuple[jax.Array, jax.Array]:
    """Latent points from N(0, 1), `[n, latent_dim]`, and uniform labels, int32 `[n]`."""
    latent_BxZ = random.normal(latent_key, (n, gan.generator.latent_dim))
    return latent_BxZ, random.randint(label_key, (n,), 0, gan.generator.n_classes)


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


def _split(key: jax.Array, gan: GAN) -> StepKeys:
    """A step's keys; those that only some recipes need come last, so that the others stay."""
    if not (gan.augment or gan.penalty):
        latent, labels, gen, disc = random.split(key, 4)
        return StepKeys(latent, labels, PassKeys(gen), PassKeys(disc))
    (latent, labels, gen, disc), users = jnp.split(random.split(key, 7), [4])
    in_gen, in_disc, penalty = (jax_threefry(key) for key in users)  # for functions of the user's
    return StepKeys(latent, labels, PassKeys(gen, in_gen), PassKeys(disc, in_disc), penalty)


def _check(batch: Batch, gan: GAN) -> None:
    """Runs once, when jit traces the step."""
    images, labels, generator = batch.images, batch.labels, gan.generator
    expected = image_shape(generator)
    good = images.dtype == np.uint8 and images.shape[1:] == expected and len(images) > 1
    if not good or labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ConfigError(
            f"the batch has images {images.dtype} {list(images.shape)} and labels {labels.dtype} "
            f"{list(labels.shape)}\nexpected uint8 [B, {', '.join(map(str, expected))}] and "
            "integers [B], B at least 2\nPass the images as they are, from 0 to 255."
        )


def _apply(
    module: nn.Module,
    net: NetState,
    inputs: jax.Array,
    labels: jax.Array,
    dropout_key: jax.Array | None = None,
) -> tuple[jax.Array, Any]:
    """One network in training mode: its output and its updated batch statistics."""
    rngs = {} if dropout_key is None else {"dropout": dropout_key}
    output, updated = module.apply(
        net.variables, inputs, labels, train=True, rngs=rngs, mutable=["batch_stats"]
    )
    return output, updated.get("batch_stats", {})


def _update(
    optimizer: optax.GradientTransformation, net: NetState, grads: Any, batch_stats: Any
) -> NetState:
    updates, opt_state = optimizer.update(grads, net.opt_state, net.params)
    return NetState(optax.apply_updates(net.params, updates), batch_stats, opt_state)
