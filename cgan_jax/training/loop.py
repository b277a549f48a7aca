"""The training loop on the host: takes chunks of steps, and calls callbacks and checkpoints.

One step is in step.py, the compiled loop over many in chunks.py, where batches come from in
cgan_jax/data/sources.py, and what writes files and draws in cgan_jax/reporting/.
"""

import contextlib
import signal
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cgan_jax.checks import check_int
from cgan_jax.config import TrainConfig
from cgan_jax.data import Dataset
from cgan_jax.data.dataset import Placement
from cgan_jax.data.sources import IterableSource, as_source
from cgan_jax.device_errors import device_errors
from cgan_jax.errors import CGANError, ConfigError, DivergenceError
from cgan_jax.training.callbacks import Callback, ChunkEnd, EpochEnd, Store, TrainEnd, TrainStart
from cgan_jax.training.chunks import ChunkRunner
from cgan_jax.training.gan import GAN, GANState, condition_dim, image_shape
from cgan_jax.training.hosts import broadcast_int, broadcast_state, is_leader
from cgan_jax.training.progress import Progress, wants_progress
from cgan_jax.training.sharding import check_shares, replicated
from cgan_jax.training.step import Step, run_keys, train_step
from cgan_jax.training.stop_signals import StopSignals


@device_errors()
def train(
    gan: GAN,
    config: TrainConfig,
    data: Any,
    *,
    step: Step = train_step,
    state: GANState | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoints: Store | None = None,
    checkpoint_every: int = 5,
    mesh: Mesh | None = None,
    placement: Placement = "auto",
    progress: bool | None = None,
) -> GANState:
    """Train until `config.epochs` epochs are done.

    Args:
        gan: what to train; `GAN.from_config(config)`, or your own.
        config: epochs, seed and `matmul_precision` are read from here; with a Dataset also
            `batch_size`, `disc_steps` and `balance`.
        data: a Dataset; an iterable of batches `(images, labels)`, see
            `cgan_jax.data.IterableSource`; or your own `Source`.
        step: one training step; see `train_step`.
        state: where to start; by default the newest state in `checkpoints`, or a fresh one from the
            seed.
        callbacks: called at the start, after each chunk of steps, after each epoch and at the end.
            Any of them can end training.
        checkpoints: where to save: every `checkpoint_every` epochs, at the end, and before an error
            that is not a CGANError leaves this function, such as KeyboardInterrupt.
        checkpoint_every: in epochs.
        mesh: devices to split each batch over, from `cgan_jax.data_mesh`; by default the first
            device takes all. If they belong to several processes (hosts.py), all of these call
            this; callbacks and checkpoints belong to the first alone.
        placement: where a Dataset's images are kept: on the `device`, on the `host`, or `auto`.
        progress: whether to show a bar; by default in a terminal and in a notebook, unless there is
            a `Progress` among the callbacks.

    Returns:
        the last state.

    Raises:
        ConfigError: the data do not fit the configuration, or a callback returned another state.
        DivergenceError: a loss or a parameter became NaN or infinite; earlier checkpoints stay.
        RunError: no checkpoint is intact; a callback or a checkpoint could not write; or the device
            has failed, or has too little memory; earlier checkpoints stay.
        KeyboardInterrupt: after Ctrl-C, with `checkpoints` once the current steps are saved.
    """
    check_int("checkpoint_every", checkpoint_every, 1, hint="Omit it for the default, 5.")
    check_fit(gan, config, data, mesh)
    keys = run_keys(config.seed)
    source = as_source(
        data,
        batch_size=config.images_per_step,
        order_key=keys.order,
        balance=config.balance,
        placement=placement,
        mesh=mesh,
    )
    per_epoch, last_step = source.steps_per_epoch, config.epochs * source.steps_per_epoch
    if state is None:
        state = newest_state(gan, checkpoints)
    saved = checkpoints.latest() if checkpoints else None  # after a damaged one was set aside
    done = int(state.step) if state else 0
    if checkpoints and saved == done and isinstance(source, IterableSource):
        source.set_state(done, checkpoints.source_state(done))
    state = on_devices(state, mesh) if state else fresh_state(gan, keys.init, mesh)
    if wants_progress(progress, callbacks) and is_leader():
        callbacks = [*callbacks, Progress()]

    def tell(hook: str, *event: Any) -> None:
        for callback in callbacks:
            getattr(callback, hook)(*event)

    def save() -> None:
        nonlocal saved
        if checkpoints and saved != done:
            saved = done
            source_state = source.get_state(done) if isinstance(source, IterableSource) else None
            checkpoints.save(done, state, source_state)

    compile_told = partial(tell, "on_compile")
    runner = ChunkRunner(gan, source, keys.steps, config, step, mesh, on_compile=compile_told)
    ctrl_c, epoch_losses = StopSignals(signal.SIGINT), list[np.ndarray]()
    with ctrl_c.listening() if _catches_ctrl_c(checkpoints) else contextlib.nullcontext():
        tell(
            "on_train_start",
            TrainStart(gan, config, state, done, last_step, per_epoch, str(source)),
        )
        try:
            while done < last_step:
                stop = ctrl_c() or any(callback.should_stop() for callback in callbacks)
                n = broadcast_int(0 if stop else min(runner.length, per_epoch - done % per_epoch))
                if not n:
                    break
                chunk = runner.run(state, done, n)
                epoch, batch = divmod(done, per_epoch)
                if is_leader():
                    check_finite(chunk.losses, chunk.finite, done, epoch)
                state, done = chunk.state, done + n
                epoch_losses.append(chunk.losses)
                state = _replaced(
                    callbacks,
                    "on_chunk_end",
                    ChunkEnd(
                        epoch, batch, done, state, chunk.losses, chunk.seconds, chunk.compiled
                    ),
                    mesh,
                )
                if done % per_epoch == 0:
                    end = EpochEnd(epoch + 1, done, state, np.concatenate(epoch_losses))
                    measures = {k: v for each in callbacks for k, v in each.measure(end).items()}
                    end = replace(end, measures=measures)
                    state = _replaced(callbacks, "on_epoch_end", end, mesh)
                    epoch_losses = []
                    if (epoch + 1) % checkpoint_every == 0:
                        save()
        except CGANError:  # what could not be written is written again by the resumed run
            raise
        except BaseException:  # from a user's callback, or a second Ctrl-C
            donated = any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
            if not donated:
                save()
            raise
        save()
        tell("on_train_end", TrainEnd(done, state))
    if ctrl_c.caught:
        raise KeyboardInterrupt
    return state


def _replaced(callbacks: Sequence[Callback], hook: str, event: Any, mesh: Mesh | None) -> GANState:
    """The state after a hook of all callbacks, each of which may replace it."""
    for callback in callbacks:
        new = getattr(callback, hook)(event)
        if new is None:
            continue
        if _shapes(new) != _shapes(event.state) or jax.process_count() > 1:
            raise ConfigError(
                f"{type(callback).__name__}.{hook} returned {type(new).__name__}\n"
                "expected None, or a state with the same arrays, in a run of one process\n"
                "Return event.state.replace(...), with arrays of the same shapes and dtypes."
            )
        # Copies: the next step must not be given an array twice, or one that the callback keeps.
        copies = jax.tree.map(_copy, new, event.state)
        event = replace(event, state=on_devices(copies, mesh))
    state: GANState = event.state
    return state


def _shapes(state: Any) -> Any:
    leaves, structure = jax.tree.flatten(state)
    return structure, [(np.shape(leaf), _dtype(leaf)) for leaf in leaves]


def _dtype(leaf: Any) -> Any:
    """An array's dtype; that of an array of a Python number; None of anything else."""
    is_number = isinstance(leaf, int | float)
    return jnp.result_type(leaf) if is_number else getattr(leaf, "dtype", None)


def _copy(leaf: Any, like: Any) -> jax.Array:
    """A copy of an array, or a Python number as an array."""
    return jnp.asarray(leaf, like.dtype) if isinstance(leaf, int | float) else jnp.copy(leaf)


# For functions that run once: compiling in half the time outweighs slower code.
FAST_COMPILE = {"xla_backend_optimization_level": 0}


@lru_cache
def _compiled_init(gan: GAN) -> jax.stages.Wrapped:
    return jax.jit(gan.init, compiler_options=FAST_COMPILE)


def fresh_state(gan: GAN, key: jax.Array, mesh: Mesh | None = None) -> GANState:
    """The state before the first step, from `RunKeys.init`, on the devices."""
    return on_devices(_compiled_init(gan)(key), mesh)


def on_devices(state: GANState, mesh: Mesh | None) -> GANState:
    """A state on the device, or on each device of a mesh."""
    placed: GANState = jax.device_put(state, replicated(mesh) if mesh else None)
    return placed


def newest_state(gan: GAN, checkpoints: Store | None) -> GANState | None:
    """The newest saved state, or None; in all processes that of the first one."""
    like = jax.eval_shape(gan.init, jax.random.key(0))
    saved = checkpoints is not None and checkpoints.latest() is not None
    return broadcast_state(checkpoints.restore(like) if checkpoints and saved else None, like)


def _catches_ctrl_c(checkpoints: Store | None) -> bool:
    """Whether Ctrl-C is to stop after the current steps. A program's own handler of it stays."""
    return (
        checkpoints is not None
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )


def check_finite(losses: np.ndarray, finite: Any, step: int, epoch: int) -> None:
    """Raises DivergenceError if the losses from `step` on, or the state then, are not finite."""
    if not np.isfinite(losses).all():
        first = step + int(np.flatnonzero(~np.isfinite(losses).all(axis=1))[0])
        problem = f"the losses became NaN or infinite in step {first}"
    elif not finite:
        first = step + len(losses) - 1
        problem = f"the parameters became NaN or infinite in steps {step} to {first}"
    else:
        return
    raise DivergenceError(
        f"{problem} (epoch {epoch + 1}).\n"
        "Earlier checkpoints stay. Try a lower learning rate, or another seed.",
        step=first,
    )


def check_fit(gan: GAN, config: TrainConfig, data: Any, mesh: Mesh | None = None) -> None:
    """Raises ConfigError if a configuration or the networks do not fit the data or the devices."""
    if not isinstance(data, Dataset):  # the first batch is checked by the step
        return
    config.check_data(len(data))
    if mesh:
        check_shares(config.batch_size, mesh)
    generator = gan.generator
    shape = image_shape(generator)
    if data.images.shape[1:] != shape:
        raise ConfigError(
            f"the images are {list(data.images.shape[1:])}, but the generator makes "
            f"{list(shape)}\nGive a ModelConfig with the images' img_size and channels."
        )
    width = condition_dim(generator)
    wanted, what = (generator.n_classes, "classes") if width is None else (width, "columns")
    if len(data.class_names) != wanted or (data.labels.ndim == 2) != (width is not None):
        kind = "classes" if data.labels.ndim == 1 else "columns"
        raise ConfigError(
            f"the data have {len(data.class_names)} {kind}, but the generator has {wanted} {what}\n"
            "Give a ModelConfig with the data's n_classes, or a generator with their condition_dim."
        )
