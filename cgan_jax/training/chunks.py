"""A run's steps on the device: `run_steps`, the compiled loop, and `ChunkRunner`, which calls it.

One step is in step.py, what happens between chunks of steps in loop.py.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jax.sharding import Mesh

from cgan_jax.checks import all_finite
from cgan_jax.config import TrainConfig
from cgan_jax.data.sources import Batch, Source
from cgan_jax.errors import ConfigError, DataError
from cgan_jax.training.gan import GAN, GANState, image_shape
from cgan_jax.training.sharding import replicated
from cgan_jax.training.step import (
    Losses,
    Step,
    in_due_steps,
    penalty_period,
    train_step,
    with_and_without_penalty,
)

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

    take = partial(in_due_steps, step) if every > 1 else step

    def body(i: jax.Array, carry: tuple[GANState, Losses]) -> tuple[GANState, Losses]:
        state, losses = carry
        batch = jax.tree.map(lambda rows: lax.dynamic_index_in_dim(rows, i, 0, False), batches)
        state, now = take(gan, state, batch, random.fold_in(key, state.step))
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
        first = jax.tree.map(lambda rows: rows[0], group)
        others = jax.tree.map(lambda rows: rows[1:], group)
        state, loss = one(due, state, first)
        state, losses = lax.scan(lambda state, batch: one(plain, state, batch), state, others)
        return state, jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), loss, losses)

    groups = jax.tree.map(lambda rows: rows.reshape(-1, every, *rows.shape[1:]), batches)
    state, losses = lax.scan(group, state, groups)
    return state, jax.tree.map(jnp.ravel, losses)


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
            check_labels(self._gan, batches.labels)
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
        first = 0
        for size in [1] * head + [groups] * (groups > 0) + [1] * (n - head - groups):
            gan, rows = self._gan, slice(first, first + size)
            if size % every:  # the penalty's group does not fit
                gan = with_and_without_penalty(gan)[(step + first) % every > 0]
            part = Batch(batches.images[rows], batches.labels[rows])
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


def check_labels(gan: GAN, labels: Any) -> None:
    """Raises DataError for class ids that the generator lacks, of which JAX would take others."""
    n_classes = getattr(gan.generator, "n_classes", None)
    if isinstance(labels, np.ndarray) and labels.dtype.kind == "i" and n_classes:
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= n_classes:
            raise DataError(
                f"the data give labels from {low} to {high}\n"
                f"expected 0 to {n_classes - 1}\nCount the classes from 0."
            )


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

    Keys of `jax.random` are not numbers, and a scalar may be infinite; see `all_finite`.
    """
    numbers = [x for x in jax.tree.leaves(tree) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
    if jax.default_backend() == "cpu":  # NumPy is faster than compiling the check
        return all(all_finite(np.asarray(leaf), np) for leaf in numbers)
    return _is_finite_on_device(numbers)


@jax.jit
def _is_finite_on_device(numbers: list[jax.Array]) -> jax.Array:
    return jnp.array([all_finite(leaf, jnp) for leaf in numbers]).all()


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
