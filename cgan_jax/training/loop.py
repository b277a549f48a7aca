"""The host loop: takes a run span by span, and tells callbacks and checkpoints of it.

What a span is stands in spans.py; what is written and drawn on the way is in callbacks.py.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cgan_jax.checks import check_int
from cgan_jax.config import TrainConfig
from cgan_jax.data import Dataset
from cgan_jax.errors import ConfigError, DivergenceError
from cgan_jax.training.callbacks import Callback, EpochEnd, RestorableStore, SpanEnd, Store
from cgan_jax.training.gan import GAN, GANState
from cgan_jax.training.hosts import broadcast_int, broadcast_state, is_leader
from cgan_jax.training.spans import Span, Spans, steps_per_epoch
from cgan_jax.training.steps import run_keys

SPAN_SECONDS = 0.5  # how long the host leaves the device alone: progress, stop signals


def train(
    gan: GAN,
    config: TrainConfig,
    dataset: Dataset,
    *,
    state: GANState | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoints: RestorableStore | None = None,
    checkpoint_every: int = 5,
    should_stop: Callable[[], bool] = lambda: False,
    mesh: Mesh | None = None,
) -> GANState:
    """Train until `config.epochs` epochs are done.

    Args:
        gan: what to train; `GAN.from_config(config)`, or your own.
        config: epochs, batch size and seed are read from here.
        dataset: the training images.
        state: where to go on; by default the newest state in `checkpoints`, or a fresh one from the
            seed.
        callbacks: told of the start, of each span of steps, of each epoch and of the end.
        checkpoints: where to save, every `checkpoint_every` epochs and at the end.
        checkpoint_every: in epochs.
        should_stop: asked about twice a second; if true, save and return early.
        mesh: devices to split each batch over, from `cgan_jax.training.sharding.data_mesh`; by default the
            first one does all. Where they belong to several processes (`cgan_jax.training.hosts`), all call
            this alike; callbacks, checkpoints and `should_stop` are for the first one alone.

    Returns:
        the state that was reached.

    Raises:
        ConfigError: the data do not fit the configuration.
        DivergenceError: a loss or a parameter became NaN or infinite; what was saved before stays.
        RunError: no checkpoint that is there is intact; or a callback or a checkpoint could not
            write; what was saved before stays.
    """
    check_int("checkpoint_every", checkpoint_every, 1, hint="Omit it for the default, 5.")
    config.check_data(len(dataset))
    check_fit(gan, dataset)
    if state is None:
        state = newest_state(gan, checkpoints)
    spans = Spans(gan, dataset, config.batch_size, run_keys(config.seed), mesh=mesh)
    reached: GANState = take_steps(
        spans,
        state,
        int(state.step) if state else 0,
        config.epochs,
        steps_per_epoch(len(dataset), config.batch_size),
        callbacks=callbacks,
        checkpoints=checkpoints,
        checkpoint_every=checkpoint_every,
        should_stop=should_stop,
        check=_check_finite,
    )
    return reached


def newest_state(gan: GAN, checkpoints: RestorableStore | None) -> GANState | None:
    """What the checkpoints hold, if they do: in all processes what they hold in the first."""
    like = jax.eval_shape(gan.init, jax.random.key(0))
    saved = checkpoints is not None and checkpoints.latest() is not None
    return broadcast_state(checkpoints.restore(like) if checkpoints and saved else None, like)


def take_steps(
    spans: Spans,
    state: Any,
    step: int,
    epochs: int,
    per_epoch: int,
    *,
    callbacks: Sequence[Callback],
    checkpoints: Store | None,
    checkpoint_every: int,
    should_stop: Callable[[], bool],
    check: Callable[[np.ndarray, Any, int, Span], None],
) -> Any:
    """The loop of `train`, of one run or of several at once, whose state is a tuple of states.

    Args:
        state: where to go on, after `step` steps; None for a fresh one.
        check: is given the losses after each span, the state, the step where it began, and the
            span; raises an error where training must not go on.
    """
    last_step = epochs * per_epoch
    at_most = 1 if jax.default_backend() == "cpu" else per_epoch
    if step < last_step:
        spans.compile(step, at_most)
    state = spans.device_put(state) if state else spans.fresh_state()
    saved = checkpoints.latest() if checkpoints else None
    epoch_losses: list[np.ndarray] = []

    for callback in callbacks:
        callback.on_train_start(step, last_step, per_epoch)
    while step < last_step and (n_steps := broadcast_int(0 if should_stop() else at_most)):
        began = time.perf_counter()
        state, span, losses = spans.run(state, step, n_steps)
        seconds = time.perf_counter() - began
        if is_leader():
            check(losses, state, step, span)
        step += span.n_steps
        epoch_losses.append(losses)
        for callback in callbacks:
            callback.on_span_end(SpanEnd(span.epoch, span.batch, losses, seconds))

        if step % per_epoch == 0:
            epoch_end = EpochEnd(
                step // per_epoch, step, state, np.concatenate(epoch_losses, axis=-2)
            )
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


def _check_finite(losses: np.ndarray, state: GANState, step: int, span: Span) -> None:
    """Raises DivergenceError where the losses after `step`, or the networks, are not finite."""
    what = ""
    if not np.isfinite(losses).all():
        bad = step + int(np.flatnonzero(~np.isfinite(losses).all(axis=1))[0])
        what = f"the losses became NaN or infinite in step {bad}"
    elif not finite((state.gen, state.disc)):
        last = step + span.n_steps - 1
        what = f"the parameters became NaN or infinite in steps {step} to {last}"
    if what:
        raise DivergenceError(
            f"{what} (epoch {span.epoch + 1}).\n"
            "What was saved before stays. Try a lower learning rate, or another seed."
        )


def finite(nets: Any) -> bool:
    """Whether no number of a tree is NaN or infinite."""
    if jax.default_backend() == "cpu":  # where to look costs less than to compile
        return all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(nets))
    return bool(_finite_on_device(nets))


@jax.jit
def _finite_on_device(nets: Any) -> jax.Array:
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(nets)]).all()


def _span_length(steps_per_second: float, now: int) -> int:
    """As many steps as take SPAN_SECONDS; the first span, which compiles, tells little."""
    wanted = max(1, round(steps_per_second * SPAN_SECONDS))
    return min(wanted, 8 * now)


def check_fit(gan: GAN, dataset: Dataset) -> None:
    """Raises ConfigError where the networks are not for these data."""
    generator = gan.generator
    makes = (generator.img_size, generator.img_size, generator.channels)
    if dataset.images.shape[1:] != makes:
        raise ConfigError(
            f"the images are {list(dataset.images.shape[1:])}, but the generator makes "
            f"{list(makes)}\nGive a ModelConfig with img_size and channels as theirs."
        )
    if len(dataset.class_names) != generator.n_classes:
        raise ConfigError(
            f"the data have {len(dataset.class_names)} classes, but the generator "
            f"{generator.n_classes}\nGive a ModelConfig with n_classes as theirs."
        )
