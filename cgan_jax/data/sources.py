"""Where training takes its batches from: `Source`, and what becomes one.

A source gives the batches of any steps; what is done with them is in cgan_jax/training/. Images are
read from disk by the other modules of this package.
"""

import logging
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax import random
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cgan_jax.checks import check_int, plural, short_repr
from cgan_jax.data.balancing import balanced_order
from cgan_jax.data.dataset import Dataset, Placement
from cgan_jax.data.mapped import LARGE, MappedRows, empty_images, is_on_disk
from cgan_jax.errors import ConfigError, DataError

DEVICE_SHARE = 0.25  # of a device's memory, up to which images are kept there
_END = object()  # of an iterable without items
_log = logging.getLogger("cgan_jax")


class Batch(NamedTuple):
    """Real images and their labels.

    Attributes:
        images: uint8 `[B, H, W, C]`, or `[n, B, H, W, C]` for the batches of n steps.
        labels: int32 `[B]`, or floats `[B, K]`; of n steps, likewise.
    """

    images: Any
    labels: Any


@runtime_checkable
class Source(Protocol):
    """Gives the batches of a run.

    Attributes:
        steps_per_epoch: steps until the callbacks' next epoch.
    """

    steps_per_epoch: int

    def batches(self, step: int, n: int) -> Batch:
        """The batches of at most n steps, of which at least one, with a leading axis.

        Args:
            step: the number of steps before them: where the run is.
            n: how many are wanted, all in one epoch. There are fewer where their sizes differ.
        """
        ...


class DatasetSource:
    """The batches of a data set, in an order of its own in each epoch.

    The last batch of an epoch has the images that are left. The order derives from a key and the
    epoch's number, so a run can begin anywhere.

    Args:
        dataset: the images, in memory or memory-mapped.
        batch_size: images per step.
        order_key: `RunKeys.order`.
        balance: whether an epoch has equally many images of each class; see `balanced_order`.
        placement: where the images are kept. "device": in the device's memory, which on a CPU is
            the machine's. "host": where they are; each chunk is read in the background while the
            one before is trained on. "auto": on the device while they take no more than
            DEVICE_SHARE of its memory; on a CPU, unless they are many and on disk.
        mesh: devices that share each batch. Each is sent its own part, from the host.

    Attributes:
        steps_per_epoch: batches in an epoch.
        placement: "device" or "host", as it was decided.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        order_key: jax.Array,
        *,
        balance: bool = False,
        placement: Placement = "auto",
        mesh: Mesh | None = None,
    ) -> None:
        self.steps_per_epoch = steps_per_epoch(len(dataset), batch_size)
        self._dataset, self._batch_size = dataset, batch_size
        self._key, self._balance, self._mesh = order_key, balance, mesh
        self.placement = _place(dataset, placement, mesh)
        self._images: Any = dataset.images
        self._reader: ThreadPoolExecutor | None = None
        if self.placement == "host":
            self._reader = ThreadPoolExecutor(1, "batches")
        elif jax.default_backend() == "cpu":
            if is_on_disk(dataset.images):  # where others might change them
                self._images = np.array(dataset.images)
        else:
            self._images = jax.device_put(np.asarray(dataset.images))
        self._epoch, self._order = -1, np.empty(0, np.int32)
        self._ahead: tuple[int, Future[Batch]] | None = None  # from which step on, and its batches
        self._most = 1

    def __str__(self) -> str:
        size = plural(len(self._dataset), "image")
        where = "in the device's memory"
        if self.placement == "host":
            where = "read from the host as they are needed"
        elif jax.default_backend() == "cpu":
            where = "in memory"
        return f"{size} ({self._dataset.images.nbytes / 1e6:,.0f} MB) {where}"

    def batches(self, step: int, n: int) -> Batch:
        """The batches of at most n steps from `step` on; see `Source`."""
        rows = self._rows(step, n)
        if self._reader is None:
            return self._gather(rows)
        start, ready = self._ahead or (None, None)
        batch = ready.result() if ready and start == step else None
        if batch is None or len(batch.labels) < len(rows):
            batch = self._gather(rows)
        if len(batch.labels) > len(rows):
            batch = Batch(*(array[: len(rows)] for array in batch))
        # As many steps as ever were asked for: a run's chunks differ in length.
        self._most, after = max(self._most, n), step + len(rows)
        self._ahead = after, self._reader.submit(self._gather, self._rows(after, self._most))
        return batch

    def _rows(self, step: int, n: int) -> np.ndarray:
        """Which images the steps take, integers `[n, B]`."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._epoch_order(epoch)
        first = batch * self._batch_size
        n_full = (len(self._dataset) - first) // self._batch_size
        if n_full == 0:
            return self._order[None, first:]
        n = min(n, n_full)
        return self._order[first : first + n * self._batch_size].reshape(n, -1)

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if self._balance:
            return balanced_order(self._dataset.labels, self._key, epoch)
        return np.asarray(_jit_epoch_order(self._key, epoch, len(self._dataset)))

    def _gather(self, rows: np.ndarray) -> Batch:
        labels = self._dataset.labels[rows]
        if isinstance(self._images, jax.Array):
            return Batch(_take_rows(self._images, rows), labels)
        if self._mesh:
            return Batch(self._share(self._images, rows), self._share(self._dataset.labels, rows))
        images = empty_images((rows.size, *self._images.shape[1:]))
        _take_into(self._images, rows.ravel(), images)
        return Batch(images.reshape(*rows.shape, *images.shape[1:]), labels)

    def _share(self, array: Any, rows: np.ndarray) -> jax.Array:
        """The rows of an array, a part of each batch on each device; all on all if it must be."""
        assert self._mesh
        divisible = rows.shape[1] % self._mesh.size == 0
        axes = (None, *self._mesh.axis_names) if divisible else ()
        sharding = NamedSharding(self._mesh, PartitionSpec(*axes))
        shape = (*rows.shape, *array.shape[1:])
        return jax.make_array_from_callback(shape, sharding, lambda part: array[rows[part[:2]]])  # type: ignore[index]


def _take_into(images: Any, rows: np.ndarray, out: np.ndarray) -> None:
    """`images[rows]` without a second copy. Of what is on disk, only the rows' pages are read."""
    if isinstance(images, MappedRows):
        images.take(rows, out)
    else:
        np.take(images, rows, 0, out=out, mode="clip")  # "raise" would need a buffer


class IterableSource:
    """The batches that a user's iterable gives, such as a Grain or torch loader or a generator.

    A batch is `(images, labels)`: uint8 `[B, H, W, C]`, and integers `[B]` or floats `[B, K]`, as
    arrays or what NumPy makes one of. When the iterable ends, it is begun again.

    A run that resumes goes on where it was: an iterator with `get_state` and `set_state`, as
    Grain's, is set there; of any other, the batches of the steps that are done are read and
    dropped. So its order must be the same each time: give it a seed.

    Args:
        iterable: begun again by `iter` at each of its ends.
        steps_per_epoch: by default the iterable's length.

    Raises:
        ConfigError: the iterable has no length, and none is given.
    """

    def __init__(self, iterable: Iterable[Any], steps_per_epoch: int | None = None) -> None:
        if steps_per_epoch is None:
            try:
                steps_per_epoch = len(iterable)  # type: ignore[arg-type]
            except TypeError as error:
                raise ConfigError(
                    f"{type(iterable).__name__} does not say how many batches it has\n"
                    "expected a length, or the number of steps that count as an epoch\n"
                    "Pass IterableSource(batches, steps_per_epoch=...)."
                ) from error
        hint = "Give the number of steps between two calls of on_epoch_end."
        self.steps_per_epoch = check_int("steps_per_epoch", steps_per_epoch, 1, hint=hint)
        self._iterable = iterable
        self._iterator: Iterator[Any] = iter(iterable)
        self._step = 0  # batches that were given
        self._waiting: tuple[Batch, Any] | None = None  # read already, with the state before it

    def __str__(self) -> str:
        return f"batches of {type(self._iterable).__name__}"

    def batches(self, step: int, n: int) -> Batch:
        """The batches of at most n steps from `step` on; see `Source`."""
        if step < self._step:
            self._iterator, self._step, self._waiting = iter(self._iterable), 0, None
        while self._step < step:
            self._next()
        parts = [self._next()]
        while len(parts) < n:
            batch = self._peek()
            if any(a.shape != b.shape for a, b in zip(batch, parts[0], strict=True)):
                break
            parts.append(self._next())
        return Batch(*(np.stack(arrays) for arrays in zip(*parts, strict=True)))

    def get_state(self, step: int) -> Any:
        """The iterator's state after `step` steps.

        None if it has none, or has gone on from there, as when steps on later batches have failed.
        """
        if self._step != step:
            return None
        return self._waiting[1] if self._waiting else self._iterator_state()

    def set_state(self, step: int, state: Any) -> None:
        """Go to where `get_state` was called, after `step` steps."""
        if state is not None:
            self._iterator.set_state(state)  # type: ignore[attr-defined]
            self._step, self._waiting = step, None

    def _iterator_state(self) -> Any:
        get_state = getattr(self._iterator, "get_state", None)
        return get_state() if get_state and hasattr(self._iterator, "set_state") else None

    def _next(self) -> Batch:
        batch = self._peek()
        self._waiting = None
        self._step += 1
        return batch

    def _peek(self) -> Batch:
        if self._waiting is None:
            before = self._iterator_state()
            try:
                item = next(self._iterator)
            except StopIteration:
                self._iterator = iter(self._iterable)
                before = self._iterator_state()
                item = next(self._iterator, _END)
            if item is _END:
                raise DataError(
                    f"{type(self._iterable).__name__} has no batches after {self._step} steps\n"
                    "expected one that begins again when it has ended\n"
                    "Pass a list or a loader instead of a generator, or an endless generator."
                )
            self._waiting = _as_batch(item), before
        return self._waiting[0]


def as_source(data: Any, **options: Any) -> Source:
    """What `train` takes batches from: a source as it is, a Dataset, or an iterable of batches.

    Args:
        data: one of these.
        options: of `DatasetSource`.
    """
    if isinstance(data, Dataset):
        return DatasetSource(data, **options)
    if isinstance(data, Source):
        return data
    if isinstance(data, Iterable):
        return IterableSource(data)
    raise ConfigError(
        f"the data are {short_repr(data)}\nexpected a Dataset, an iterable of (images, labels), or "
        "a Source\nPass one of these."
    )


def steps_per_epoch(n_images: int, batch_size: int) -> int:
    """Batches per epoch; the last may be smaller. 938 for 60,000 images in batches of 64."""
    return -(-n_images // batch_size)


def epoch_order(key: jax.Array, epoch: int | jax.Array, n_images: int) -> jax.Array:
    """The order in which one epoch takes the images: indices, int32 `[N]`.

    Args:
        key: `RunKeys.order`.
        epoch: counted from 0.
        n_images: how many there are.
    """
    return random.permutation(random.fold_in(key, epoch), n_images)


_jit_epoch_order = jax.jit(epoch_order, static_argnums=2)
_take_rows = jax.jit(lambda images, rows: images[rows])


def _place(dataset: Dataset, placement: Placement, mesh: Mesh | None) -> Literal["device", "host"]:
    """Where to keep the images of a data set."""
    if placement not in ("auto", "device", "host"):
        raise ConfigError(
            f"placement is {short_repr(placement)}\nexpected auto, device or host\n"
            "Omit it for the default, auto."
        )
    if mesh:
        return "host"
    if placement != "auto":
        return placement
    n_bytes = dataset.images.nbytes
    if jax.default_backend() == "cpu":
        return "host" if n_bytes >= LARGE and is_on_disk(dataset.images) else "device"
    memory = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", math.inf)
    return "device" if n_bytes <= DEVICE_SHARE * memory else "host"


def _as_batch(item: Any) -> Batch:
    """One item of a user's iterable, checked."""
    try:
        images, labels = item if isinstance(item, tuple | list) else ()
        images, labels = np.asarray(images), np.asarray(labels)
    except Exception as error:  # of many kinds
        raise DataError(
            f"the data give {short_repr(item)}\nexpected a pair of arrays, (images, labels)\n"
            "Convert what your loader gives, as by a generator."
        ) from error
    if np.issubdtype(labels.dtype, np.integer) and labels.ndim == 1:
        as_ids = labels.astype(np.int32)
        fits = np.array_equal(as_ids, labels)
        labels = as_ids
    else:
        fits = np.issubdtype(labels.dtype, np.floating) and labels.ndim == 2
        labels = labels.astype(np.float32) if fits else labels
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(labels) or not fits:
        raise DataError(
            f"the data give images {images.dtype} {list(images.shape)} and labels {labels.dtype} "
            f"{list(labels.shape)}\nexpected uint8 [B, H, W, C], and integers [B] or floats [B, K]"
            "\nGive pixel values from 0 to 255, channels last."
        )
    return Batch(images, labels)
