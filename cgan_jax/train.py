"""The host loop: cuts a run into spans of steps, and tells callbacks and checkpoints of them.

What a step does is in steps.py; what is written and drawn on the way is in callbacks.py.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cgan_jax.callbacks import Callback, EpochEnd, SpanEnd
from cgan_jax.checkpoint import Checkpoints
from cgan_jax.config import TrainConfig
from cgan_jax.data import Dataset
from cgan_jax.errors import ConfigError, DivergenceError
from cgan_jax.state import GAN, GANState
from cgan_jax.steps import Batch, run_keys, train_steps

SPAN_SECONDS = 0.5  # how long the host leaves the device alone: progress, stop signals


@dataclass(frozen=True)
class Span:
    """Steps that one call takes: within an epoch, all of one batch size.

    Attributes:
        epoch: counted from 0.
        batch: the first step's place in its epoch, from 0.
        n_steps: how many.
        last_batch: whether it is the epoch's last step, of fewer images.
    """

    epoch: int
    batch: int
    n_steps: int
    last_batch: bool


def next_span(step: int, n_images: int, batch_size: int, at_most: int) -> Span:
    """The span that begins after `step` steps of a run and has at most `at_most` steps."""
    epoch, batch = divmod(step, steps_per_epoch(n_images, batch_size))
    full_batches = n_images // batch_size
    if batch == full_batches:
        return Span(epoch, batch, 1, last_batch=True)
    return Span(epoch, batch, min(at_most, full_batches - batch), last_batch=False)


def steps_per_epoch(n_images: int, batch_size: int) -> int:
    """Batches in an epoch, the last of which may be smaller: 938 for 60,000 images in 64s."""
    return -(-n_images // batch_size)


@lru_cache
def compiled_train_steps(fixed_trip_count: bool) -> Callable[..., Any]:
    """`train_steps` under jit: compiled once for a run's batches, and once for its last batches.

    On a CPU one program serves spans of all lengths. A GPU waits for the host at each turn of a
    loop whose length it does not know, so there each length has its own program; all are epochs.
    """
    static = ["gan", "batch_size", "last_batch"] + ["n_steps"] * fixed_trip_count
    return jax.jit(train_steps, static_argnames=static, donate_argnames="state")


def train(
    gan: GAN,
    config: TrainConfig,
    dataset: Dataset,
    *,
    state: GANState | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoints: Checkpoints | None = None,
    checkpoint_every: int = 5,
    should_stop: Callable[[], bool] = lambda: False,
) -> GANState:
    """Train until `config.epochs` epochs are done.

    Args:
        gan: what to train; `GAN.from_config(config)`, or your own.
        config: epochs, batch size and seed are read from here.
        dataset: the training images.
        state: where to go on; by default a fresh state from the seed.
        callbacks: told of the start, of each span of steps, of each epoch and of the end.
        checkpoints: where to save, every `checkpoint_every` epochs and at the end.
        checkpoint_every: in epochs.
        should_stop: asked about twice a second; if true, save and return early.

    Returns:
        the state that was reached.

    Raises:
        ConfigError: the data do not fit the configuration.
        DivergenceError: a loss became NaN or infinite; what was saved before stays.
    """
    config.check_data(len(dataset))
    _check_fit(gan, dataset)
    keys = run_keys(config.seed)
    if state is None:
        state = jax.jit(gan.init)(keys.init)
    state = jax.device_put(state)
    data = Batch(jnp.asarray(dataset.images), jnp.asarray(dataset.labels))
    run_steps = compiled_train_steps(fixed_trip_count=jax.default_backend() != "cpu")

    per_epoch = steps_per_epoch(len(dataset), config.batch_size)
    step, last_step = int(state.step), config.epochs * per_epoch
    saved = checkpoints.latest() if checkpoints else None
    at_most = 1 if jax.default_backend() == "cpu" else per_epoch
    epoch_losses: list[np.ndarray] = []

    for callback in callbacks:
        callback.on_train_start(step, last_step, per_epoch)
    while step < last_step and not should_stop():
        span = next_span(step, len(dataset), config.batch_size, at_most)
        began = time.perf_counter()
        state, losses = run_steps(
            gan,
            state,
            data,
            keys,
            span.n_steps,
            batch_size=config.batch_size,
            last_batch=span.last_batch,
        )
        rows = np.stack([losses.d_loss, losses.g_loss], axis=1)[: span.n_steps]
        seconds = time.perf_counter() - began
        if not np.isfinite(rows).all():
            bad = step + int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            raise DivergenceError(
                f"the losses became NaN or infinite in step {bad} (epoch {span.epoch}).\n"
                "What was saved before stays. Try a lower learning rate, or another seed."
            )
        step += span.n_steps
        epoch_losses.append(rows)
        for callback in callbacks:
            callback.on_span_end(SpanEnd(span.epoch, span.batch, rows, seconds))

        if step % per_epoch == 0:
            epoch_end = EpochEnd(step // per_epoch, step, state, np.concatenate(epoch_losses))
            epoch_losses = []
            for callback in callbacks:
                callback.on_epoch_end(epoch_end)
            if checkpoints and epoch_end.epoch % checkpoint_every == 0:
                checkpoints.save(step, state)
                saved = step
        if not span.last_batch and at_most < per_epoch:
            at_most = _span_length(span.n_steps / seconds, at_most)

    if checkpoints and saved != step:
        checkpoints.save(step, state)
    for callback in callbacks:
        callback.on_train_end(step, state)
    return state


def _span_length(steps_per_second: float, now: int) -> int:
    """As many steps as take SPAN_SECONDS; the first span, which compiles, tells little."""
    wanted = max(1, round(steps_per_second * SPAN_SECONDS))
    return min(wanted, 8 * now)


def _check_fit(gan: GAN, dataset: Dataset) -> None:
    generator = gan.generator
    makes = (generator.img_size, generator.img_size, generator.channels)
    if dataset.images.shape[1:] != makes:
        raise ConfigError(
            f"the images are {list(dataset.images.shape[1:])}, but the generator makes "
            f"{list(makes)}"
        )
    if len(dataset.class_names) != generator.n_classes:
        raise ConfigError(
            f"the data have {len(dataset.class_names)} classes, but the generator "
            f"{generator.n_classes}"
        )
