"""A run's steps on the device, span by span: consecutive steps within one epoch.

The step itself is in steps.py; what happens between spans is in loop.py.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cgan_jax.config import MatmulPrecision
from cgan_jax.data import Dataset
from cgan_jax.training.balancing import balanced_order
from cgan_jax.training.gan import GAN
from cgan_jax.training.sharding import check_shares, replicated
from cgan_jax.training.steps import (
    Batch,
    Losses,
    RunKeys,
    epoch_order,
    shuffle,
    take,
    train_steps,
)

SHUFFLED_BYTES = 2**29  # of images, in shuffled copies


@dataclass(frozen=True)
class Span:
    """Consecutive steps within one epoch.

    Attributes:
        epoch: counted from 0.
        batch: the first step's position in its epoch, from 0.
        n_steps: number of steps.
        last_batch: whether the last of them is the epoch's last, of fewer images.
    """

    epoch: int
    batch: int
    n_steps: int
    last_batch: bool


def next_span(step: int, n_images: int, batch_size: int, at_most: int) -> Span:
    """The span of at most `at_most` steps of one size, after the first `step` steps of a run."""
    epoch, batch = divmod(step, steps_per_epoch(n_images, batch_size))
    full_batches = n_images // batch_size
    if batch == full_batches:
        return Span(epoch, batch, 1, last_batch=True)
    return Span(epoch, batch, min(at_most, full_batches - batch), last_batch=False)


def steps_per_epoch(n_images: int, batch_size: int) -> int:
    """Batches per epoch; the last may be smaller. 938 for 60,000 images in batches of 64."""
    return -(-n_images // batch_size)


class StepsFn(Protocol):
    """`cgan_jax.training.steps.train_steps` under jit, or its equivalent for several runs."""

    def __call__(self, **arguments: Any) -> tuple[Any, Losses]: ...

    def lower(self, **arguments: Any) -> jax.stages.Lowered: ...


class Taken(NamedTuple):
    """What some steps led to.

    Attributes:
        state: the state after them, or that of each run.
        span: the steps.
        losses: d_loss and g_loss of each step, float32 `[span.n_steps, 2]`, or
            `[runs, span.n_steps, 2]`.
        finite: whether the state has no NaN or infinite number, for each run that of its own.
    """

    state: Any
    span: Span
    losses: np.ndarray
    finite: Any


class JittedFns(NamedTuple):
    """The functions that a run calls on the device, under jit.

    Attributes:
        init: maps a key to a fresh state.
        steps: see `cgan_jax.training.steps.train_steps`.
    """

    init: Callable[..., Any]
    steps: StepsFn


class Spans:
    """Takes the steps of one run. Holds the data set on the device, and a shuffled copy of it.

    The copy of a large data set is in blocks of as many batches as fit into SHUFFLED_BYTES, one of
    them at a time.

    In a sweep (sweep.py), keys and states are tuples with one element per run.

    Args:
        gan: what to train.
        dataset: the training images.
        batch_size: images per step.
        keys: the run's streams of randomness.
        jitted: the functions to call; by default those of a single run.
        mesh: devices to split the batches over; by default JAX's first device takes all.
        balance: whether an epoch has equally many images of each class; see `balancing.py`.
        matmul_precision: of the steps' products; see `cgan_jax.TrainConfig`.
        step_kwargs: further arguments of `jitted.steps`.

    Attributes:
        per_epoch: batches per epoch.

    Raises:
        ConfigError: the batches cannot be split equally.
    """

    def __init__(
        self,
        gan: GAN,
        dataset: Dataset,
        batch_size: int,
        keys: RunKeys,
        jitted: JittedFns | None = None,
        mesh: Mesh | None = None,
        balance: bool = False,
        matmul_precision: MatmulPrecision = "default",
        **step_kwargs: Any,
    ) -> None:
        if mesh:
            check_shares(batch_size, mesh)
        self._jitted = jitted or single_run(gan, mesh)
        self._mesh, self._matmul_precision = mesh, matmul_precision
        self._keys, self._batch_size = keys, batch_size
        self._step_kwargs = {"gan": gan, "key": keys.steps, "batch_size": batch_size} | step_kwargs
        self._labels_to_balance = dataset.labels if balance else None
        self._data = Batch(*self.device_put((dataset.images, dataset.labels)))
        self.per_epoch = steps_per_epoch(len(dataset), batch_size)
        n_copies = len(jax.tree.leaves(keys.order))
        batch_bytes = max(1, n_copies * batch_size * dataset.images[:1].nbytes)
        self._per_block = max(1, min(self.per_epoch, SHUFFLED_BYTES // batch_bytes))
        self._block: tuple[int, ...] = ()
        self._shuffled: Any
        self._compiling: threading.Thread | None = None

    def device_put(self, arrays: Any) -> Any:
        """Arrays on the device, or on each device of the mesh."""
        return jax.device_put(arrays, replicated(self._mesh) if self._mesh else None)

    def fresh_state(self) -> Any:
        """The state before the first step."""
        return self.device_put(jax.tree.map(self._jitted.init, self._keys.init))

    def compile(self, step: int, at_most: int) -> None:
        """Start to compile what the first call of `run` needs; return before it is compiled."""
        program = self._lower(step, at_most)

        def compile_it() -> None:
            with contextlib.suppress(Exception):  # `run` raises it again, where it can be caught
                program.compile()

        self._compiling = threading.Thread(target=compile_it)
        self._compiling.start()

    def memory(self) -> int:
        """Bytes on a device in an epoch's first steps: what their program takes, and the data.

        The program's are its arguments, results and temporary values, by XLA's own count. In its
        arguments are the state and the shuffled data; `self` holds the data a second time.
        """
        program = self._lower(0, self.per_epoch).compile().memory_analysis()
        assert program  # every platform of JAX has it
        in_program: int = (
            program.argument_size_in_bytes
            + program.temp_size_in_bytes
            + program.output_size_in_bytes
            - program.alias_size_in_bytes
        )
        return in_program + sum(array.nbytes for array in self._data)

    def _lower(self, step: int, at_most: int) -> jax.stages.Lowered:
        """The program of the first call of `run`, as it is before it is compiled."""
        span = self._next(step, at_most)
        n_shuffled = len(self._rows(span)) if self._is_cut else len(self._data.labels)
        block = jax.tree.map(
            lambda array: jax.ShapeDtypeStruct((n_shuffled, *array.shape[1:]), array.dtype),
            self._data,
        )
        state = jax.tree.map(lambda key: jax.eval_shape(self._jitted.init, key), self._keys.init)
        shuffled = jax.tree.map(lambda _: block, self._keys.order)
        arguments = self._arguments(state, shuffled, span)
        with self._context():
            return self._jitted.steps.lower(**arguments)

    def run(self, state: Any, step: int, at_most: int) -> Taken:
        """Take the next steps, all in one epoch and one block of the data, and wait for them once.

        Args:
            state: the state after `step` steps; its buffers are donated.
            step: number of finished steps.
            at_most: the largest number of steps to take, at least 1.
        """
        n_steps, spans, parts = 0, list[Span](), list[Losses]()
        while n_steps < at_most:
            span = self._next(step + n_steps, at_most - n_steps)
            if spans and self._block != self._block_of(span):
                break
            state, losses = self._take(state, span)
            spans.append(span)
            parts.append(losses)
            n_steps += span.n_steps
        finite = jax.tree.map(lambda _, own: is_finite(own), self._keys.init, state)
        parts, finite = jax.device_get((parts, finite))  # all in one transfer
        rows = [
            np.stack(losses, axis=-1)[..., : span.n_steps, :]
            for span, losses in zip(spans, parts, strict=True)
        ]
        taken = replace(spans[0], n_steps=n_steps, last_batch=spans[-1].last_batch)
        return Taken(state, taken, np.concatenate(rows, axis=-2), finite)

    def _take(self, state: Any, span: Span) -> tuple[Any, Losses]:
        """Dispatch the steps of a span in which all batches have one size."""
        if self._block != (block := self._block_of(span)):
            self._shuffled = None  # one copy at a time
            self._shuffled = jax.tree.map(lambda key: self._in_order(key, span), self._keys.order)
            self._block = block
        if self._compiling:
            self._compiling.join()
            self._compiling = None
        with self._context():
            return self._jitted.steps(**self._arguments(state, self._shuffled, span))

    def _in_order(self, key: jax.Array, span: Span) -> Batch:
        """The data as an epoch takes them, or the span's block of them."""
        if self._labels_to_balance is not None:
            order_N = balanced_order(self._labels_to_balance, key, span.epoch)
        elif self._is_cut:
            order_N = np.asarray(_epoch_order(key, span.epoch, len(self._data.labels)))
        else:
            return _shuffle(self._data, key, span.epoch)
        rows = order_N[self._rows(span)] if self._is_cut else order_N
        return _take(self._data, self.device_put(rows))

    @property
    def _is_cut(self) -> bool:
        """Whether an epoch's data are shuffled in several blocks."""
        return self._per_block < self.per_epoch

    def _block_of(self, span: Span) -> tuple[int, ...]:
        """What identifies the block of a span; the smaller last batch is one of its own."""
        return span.epoch, span.batch // self._per_block, self._is_cut and span.last_batch

    def _rows(self, span: Span) -> np.ndarray:
        """Where the images of a span's block are in the order of its epoch.

        `train_steps` takes a batch's place from its step's number, modulo the block's length.
        """
        n_images, size = len(self._data.labels), self._batch_size
        if span.last_batch:
            return np.arange(span.batch * size, n_images)
        first = span.batch // self._per_block * self._per_block
        batches = np.arange(first, first + self._per_block)
        batches = np.roll(batches, (span.epoch * self.per_epoch + first) % self._per_block)
        batches = np.minimum(batches, n_images // size - 1)  # the last block may have room left
        return (batches[:, None] * size + np.arange(size)).ravel()

    @contextlib.contextmanager
    def _context(self) -> Iterator[None]:
        """What the steps' program depends on beside its arguments: mesh and precision."""
        with contextlib.ExitStack() as stack:
            if self._mesh:
                stack.enter_context(jax.set_mesh(self._mesh))
            if self._matmul_precision != "default":
                stack.enter_context(jax.default_matmul_precision(self._matmul_precision))
            yield

    def _next(self, step: int, at_most: int) -> Span:
        left_in_block = self._per_block - step % self.per_epoch % self._per_block
        at_most = min(at_most, left_in_block)
        return next_span(step, len(self._data.labels), self._batch_size, at_most)

    def _arguments(self, state: Any, shuffled: Any, span: Span) -> dict[str, Any]:
        varying = {"n_steps": span.n_steps, "last_batch": span.last_batch}
        return {"state": state, "shuffled": shuffled} | varying | self._step_kwargs


def is_finite(tree: Any) -> bool | jax.Array:
    """Whether no number of a tree is NaN or infinite; on a GPU the host does not wait for it."""
    if jax.default_backend() == "cpu":  # NumPy is faster than compiling the check
        return all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(tree))
    return _is_finite_on_device(tree)


@jax.jit
def _is_finite_on_device(tree: Any) -> jax.Array:
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def single_run(gan: GAN, mesh: Mesh | None = None) -> JittedFns:
    """The functions of a single run."""
    return JittedFns(_init(gan), compiled_train_steps(fixed_trip_count(), mesh))


def fixed_trip_count() -> bool:
    """Whether each length of span has its own program, instead of one for all.

    A GPU waits for the host at each turn of a loop whose length it does not know. So there a span
    is a whole epoch, and its length is known when it is compiled.
    """
    return jax.default_backend() != "cpu"


# For functions that run once: compiling in half the time outweighs slower code.
FAST_COMPILE = {"xla_backend_optimization_level": 0}
_shuffle, _take = jax.jit(shuffle), jax.jit(take)
_epoch_order = jax.jit(epoch_order, static_argnums=2)


@lru_cache
def _init(gan: GAN) -> jax.stages.Wrapped:
    return jax.jit(gan.init, compiler_options=FAST_COMPILE)


@lru_cache
def compiled_train_steps(fixed_trip_count: bool, mesh: Mesh | None = None) -> jax.stages.Wrapped:
    """`train_steps` under jit: compiled once for a run's batches, and once for its last batches."""
    return jit_steps(train_steps, fixed_trip_count, out_shardings=mesh and replicated(mesh))


def jit_steps(
    steps: Callable[..., Any], fixed_trip_count: bool, static: Sequence[str] = (), **options: Any
) -> jax.stages.Wrapped:
    """A function like `train_steps` under jit; `static` names further static arguments."""
    return jax.jit(
        steps,
        static_argnames=["gan", "batch_size", "last_batch", *static]
        + ["n_steps"] * fixed_trip_count,
        donate_argnames="state",
        compiler_options=_update_in_place(),
        **options,
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
