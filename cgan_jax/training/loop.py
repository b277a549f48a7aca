"""The training loop: `train` on the host, and `run_steps`, the compiled loop that it calls.

One step is in step.py, where batches come from in cgan_jax/data/sources.py, and what writes files
and draws in cgan_jax/reporting/.
"""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jax.sharding import Mesh

from cgan_jax.checks import check_int
from cgan_jax.config import TrainConfig
from cgan_jax.data import Dataset
from cgan_jax.data.dataset import Placement
from cgan_jax.data.sources import Batch, IterableSource, Source, as_source
from cgan_jax.device_errors import device_errors
from cgan_jax.errors import CGANError, ConfigError, DivergenceError
from cgan_jax.training.callbacks import Callback, ChunkEnd, EpochEnd, Store, TrainEnd, TrainStart
from cgan_jax.training.gan import GAN, GANState, condition_dim, image_shape
from cgan_jax.training.hosts import broadcast_int, broadcast_state, is_leader
from cgan_jax.training.progress import Progress, wants_progress
from cgan_jax.training.sharding import check_shares, replicated
from cgan_jax.training.step import (
    Losses,
    Step,
    penalty_period,
    run_keys,
    train_step,
    with_and_without_penalty,
)
from cgan_jax.training.stop_signals import StopSignals

CHUNK_SECONDS = 0.5  # between two updates of progress, and two checks for a stop
CHUNK_BYTES = 2**23  # of a chunk's images on a CPU
DEVICE_CHUNK_BYTES = 2**29  # elsewhere, where a chunk is as much of an epoch as fits


def run_steps(
    gan: GAN,
    state: GANState,
    batches: Batch,
    key: jax.Array,
    n_steps: int | jax.Array | None = None,
    *,
    step: Step = train_step,
) -> tuple[GANState, Losses]:
    """Take many training steps. Pure; `train` calls it under jit, with the state donated.

    Args:
        gan: networks, optimizers and loss (static under jit).
        state: the state before.
        batches: those of N steps, with a leading axis: uint8 `[N, B, H, W, C]` and `[N, B]`.
        key: `RunKeys.steps`; step s uses `fold_in(key, s)`.
        n_steps: how many steps to take, at most N; it may be traced, so that one program serves all
            numbers. None, which a GPU needs, takes all, in loops whose lengths are constants. If
            the penalty is due in every k-th step, N is then a multiple of k, and so is the number
            of steps done before.
        step: one step.

    Returns:
        the state after the steps, and their losses, `[N]`, of which the first `n_steps` are filled.

    Raises:
        ConfigError: N is not a multiple of the penalty's period.
    """

    def one(gan: GAN, state: GANState, batch: Batch) -> tuple[GANState, Losses]:
        return step(gan, state, batch, random.fold_in(key, state.step))

    every, n_batches = penalty_period(gan), len(batches.labels)
    if n_steps is None and every == 1:
        return lax.scan(lambda state, batch: one(gan, state, batch), state, batches)
    if n_steps is None:
        return _run_groups(gan, state, batches, one)

    def body(i: jax.Array, carry: tuple[GANState, Losses]) -> tuple[GANState, Losses]:
        state, losses = carry
        batch = jax.tree.map(lambda rows: lax.dynamic_index_in_dim(rows, i, 0, False), batches)
        # With a rare penalty, this step has to decide by itself whether it is due.
        state, now = one(gan, state, batch)
        return state, jax.tree.map(lambda all_, loss: all_.at[i].set(loss), losses, now)

    no_losses = Losses(jnp.zeros(n_batches), jnp.zeros(n_batches))
    return lax.fori_loop(0, n_steps, body, (state, no_losses))


def _run_groups(gan: GAN, state: GANState, batches: Batch, one: Any) -> tuple[GANState, Losses]:
    """All steps, in groups of which the first step has the penalty and the others do not."""
    every, n_batches = penalty_period(gan), len(batches.labels)
    if n_batches % every:
        raise ConfigError(
            f"there are {n_batches} batches, and the penalty is due in every {every}th step\n"
            f"expected a multiple of {every}\nPass n_steps, or another number of batches."
        )
    due, plain = with_and_without_penalty(gan)

    def group(state: GANState, group: Batch) -> tuple[GANState, Losses]:
        first, others = (
            jax.tree.map(lambda rows: rows[part], group) for part in (0, slice(1, None))
        )
        state, loss = one(due, state, first)
        state, losses = lax.scan(lambda state, batch: one(plain, state, batch), state, others)
        return state, jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), loss, losses)

    groups = jax.tree.map(lambda rows: rows.reshape(-1, every, *rows.shape[1:]), batches)
    state, losses = lax.scan(group, state, groups)
    return state, jax.tree.map(jnp.ravel, losses)


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
    saved = checkpoints.latest() if checkpoints else None
    if state is None and checkpoints:
        state = newest_state(gan, checkpoints)
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
            source_state = source.get_state() if isinstance(source, IterableSource) else None
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
                state, (epoch, batch) = chunk.state, divmod(done, per_epoch)
                if is_leader():
                    check_finite(chunk.losses, chunk.finite, done, epoch)
                done += n
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
        old_like, new_like = (jax.eval_shape(lambda: s) for s in (event.state, new))
        if old_like != new_like or jax.process_count() > 1:
            raise ConfigError(
                f"{type(callback).__name__}.{hook} returned {type(new).__name__}\n"
                "expected None, or a state with the same arrays, in a run of one process\n"
                "Return event.state.replace(...), with arrays of the same shapes and dtypes."
            )
        # Copies: the next step must not be given an array twice, or one that the callback keeps.
        event = replace(event, state=on_devices(jax.tree.map(jnp.copy, new), mesh))
    state: GANState = event.state
    return state


class Chunk(NamedTuple):
    """What `ChunkRunner.run` returns.

    Attributes:
        state: the state after the steps.
        losses: d_loss and g_loss of each, float32 `[n, 2]`.
        finite: whether the state has no NaN or infinite number.
        compiled: whether a program was compiled for them.
        seconds: how long they took.
    """

    state: GANState
    losses: np.ndarray
    finite: Any
    compiled: bool
    seconds: float


class ChunkRunner:
    """Takes a run's steps on the device, chunk by chunk.

    On a CPU one program takes any number of steps, up to `capacity`, so that a chunk lasts
    CHUNK_SECONDS. On a GPU, which would wait for the host at each turn of a loop of unknown length,
    a chunk is a whole epoch as far as it fits, in pieces of constant lengths that are dispatched
    one behind the other.

    Args:
        gan: what to train.
        source: gives the batches.
        key: `RunKeys.steps`.
        config: `matmul_precision` and the images of a step are read from here.
        step: one step.
        mesh: devices that share each batch.
        on_compile: called before a program is compiled.

    Attributes:
        capacity: the most steps of a chunk.
        length: how many steps to take next.
    """

    def __init__(
        self,
        gan: GAN,
        source: Source,
        key: jax.Array,
        config: TrainConfig,
        step: Step = train_step,
        mesh: Mesh | None = None,
        on_compile: Callable[[], None] = lambda: None,
    ) -> None:
        self._gan, self._source, self._key, self._step = gan, source, key, step
        self._precision, self._mesh, self._on_compile = config.matmul_precision, mesh, on_compile
        self._constant = jax.default_backend() != "cpu"
        batch_bytes = config.images_per_step * math.prod(image_shape(gan.generator))
        room = DEVICE_CHUNK_BYTES if self._constant else CHUNK_BYTES
        self.capacity = max(1, min(source.steps_per_epoch, room // batch_bytes))
        self.length = self.capacity if self._constant else 1
        self._programs = set[tuple[Any, ...]]()

    def run(self, state: GANState, step: int, n: int) -> Chunk:
        """Take n steps, all in one epoch, and wait for them once.

        Args:
            state: the state after `step` steps; its buffers are donated.
            step: number of finished steps.
            n: how many to take, at most `capacity`.
        """
        parts, sizes = list[Losses](), list[int]()
        end, n_programs = step + n, len(self._programs)
        began = time.perf_counter()
        while step < end:
            batches = self._source.batches(step, end - step)
            for arguments, n_steps in self._pieces(step, batches):
                self._announce(arguments, n_steps)
                with self._context():
                    state, losses = compiled_steps(self._mesh)(state=state, **arguments)
                parts.append(losses)
                sizes.append(n_steps)
                step += n_steps
        parts, finite = jax.device_get((parts, is_finite(state)))  # all in one transfer
        seconds, compiled = time.perf_counter() - began, len(self._programs) > n_programs
        filled = (np.stack(part, -1)[:size] for part, size in zip(parts, sizes, strict=True))
        losses = np.concatenate(list(filled))
        if not self._constant:
            wanted = max(1, round(n / seconds * CHUNK_SECONDS))
            self.length = min(wanted, 8 * self.length, self.capacity)  # the first chunk compiles
        return Chunk(state, losses, finite, compiled, seconds)

    def lower(self, state: GANState) -> jax.stages.Lowered:
        """The program of a run's first steps, before it is compiled.

        Args:
            state: its shapes and dtypes, as from `jax.eval_shape(gan.init, key)`.
        """
        arguments, _ = next(self._pieces(0, self._source.batches(0, self.capacity)))
        with self._context():
            return compiled_steps(self._mesh).lower(state=state, **arguments)

    def _pieces(self, step: int, batches: Batch) -> Iterator[tuple[dict[str, Any], int]]:
        """What `run_steps` is called with, one call after another, and the steps of each."""
        n, every = len(batches.labels), penalty_period(self._gan)
        common = {"key": self._key, "step": self._step}
        if not self._constant:
            with_room = jax.tree.map(lambda rows: _with_room(rows, self.capacity), batches)
            yield common | {"gan": self._gan, "batches": with_room, "n_steps": n}, n
            return
        head = min(-step % every, n)
        groups = (n - head) // every * every
        singles = [1] * head, [1] * (n - head - groups)
        first = 0
        for size in [*singles[0], *[groups] * (groups > 0), *singles[1]]:
            gan = self._gan
            if size % every:  # the penalty's group does not fit
                gan = with_and_without_penalty(gan)[(step + first) % every > 0]
            part = jax.tree.map(lambda rows: rows[first : first + size], batches)
            yield common | {"gan": gan, "batches": part, "n_steps": None}, size
            first += size

    def _announce(self, arguments: dict[str, Any], n_steps: int) -> None:
        shape = arguments["batches"].labels.shape
        program = arguments["gan"], shape[1:], n_steps if self._constant else None
        if program not in self._programs:
            self._programs.add(program)
            self._on_compile()

    @contextlib.contextmanager
    def _context(self) -> Iterator[None]:
        """What the steps' program depends on beside its arguments: mesh and precision."""
        with contextlib.ExitStack() as stack:
            if self._mesh:
                stack.enter_context(jax.set_mesh(self._mesh))
            if self._precision != "default":
                stack.enter_context(jax.default_matmul_precision(self._precision))
            yield


def _with_room(rows: Any, capacity: int) -> Any:
    """An array with zeros behind its rows, so that one program takes any number of them."""
    missing = capacity - len(rows)
    if not missing:
        return rows
    if isinstance(rows, jax.Array):  # parts on several devices
        return jnp.concatenate([rows, jnp.zeros((missing, *rows.shape[1:]), rows.dtype)])
    return np.concatenate([rows, np.zeros((missing, *rows.shape[1:]), rows.dtype)])


def is_finite(tree: Any) -> bool | jax.Array:
    """Whether no number of a tree is NaN or infinite; on a GPU the host does not wait for it.

    Keys of `jax.random` are not numbers.
    """
    numbers = [x for x in jax.tree.leaves(tree) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
    if jax.default_backend() == "cpu":  # NumPy is faster than compiling the check
        return all(np.isfinite(np.asarray(leaf)).all() for leaf in numbers)
    return _is_finite_on_device(numbers)


@jax.jit
def _is_finite_on_device(numbers: list[jax.Array]) -> jax.Array:
    return jnp.array([jnp.isfinite(leaf).all() for leaf in numbers]).all()


@lru_cache
def compiled_steps(mesh: Mesh | None = None) -> jax.stages.Wrapped:
    """`run_steps` under jit, with the state donated."""
    return jax.jit(
        run_steps,
        static_argnames=["gan", "step"],
        donate_argnames="state",
        compiler_options=_update_in_place(),
        out_shardings=mesh and replicated(mesh),
    )


def _update_in_place() -> dict[str, bool]:
    """A compiler option without which XLA's CPU code copies each kernel and moment in each step.

    XLA regards the products with a kernel and the kernel's update as unordered, and keeps a copy of
    the old kernel. The option changes no number; an XLA that lacks it is only slower.
    """
    options = {"xla_cpu_copy_insertion_use_region_analysis": True}
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


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
    """Raises DivergenceError if the losses from `step` on, or the state after them, are not finite."""
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
