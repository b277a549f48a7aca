"""The host loop: chunks, callbacks, saves, and that a resumed run equals the uninterrupted one."""

import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

from cgan_jax.config import TrainConfig
from cgan_jax.data import Batch, Dataset, IterableSource
from cgan_jax.errors import ConfigError, DivergenceError, RunError
from cgan_jax.reporting.callbacks import LossesTable, SampleGrids, TensorBoard
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.training import chunks
from cgan_jax.training.callbacks import Callback
from cgan_jax.training.chunks import ChunkRunner
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import train
from cgan_jax.training.penalties import WeightedPenalty, r1
from cgan_jax.training.step import Losses
from tests.helpers import StopAfter


@pytest.fixture(scope="module")
def gan(tiny_config):
    return GAN.from_config(tiny_config)


def run_to_the_end(config, dataset, gan, folder, stops=()):
    """Train in a folder, stopping and resuming after each of the given numbers of steps.

    Each step is taken once.
    """
    for stop_after in (*stops, 10**9):
        run = RunFolder.start(folder, config, dataset.class_names)
        stop = StopAfter(stop_after)
        with Checkpoints(run.checkpoints) as checkpoints:
            before = checkpoints.latest() or 0
            state = train(
                gan,
                config,
                dataset,
                callbacks=[
                    LossesTable(run),
                    SampleGrids(gan, run, every=2, rows=2),
                    TensorBoard(run),
                    stop,
                ],
                checkpoints=checkpoints,
                checkpoint_every=2,
            )
        assert stop_after - stop.left == state.step - before
    return state


def contents(folder):
    """The files of a run that do not depend on how often it was stopped."""
    names = ["losses.csv", *(str(p.relative_to(folder)) for p in folder.glob("samples/*"))]
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def uninterrupted(tiny_config, tiny_dataset, gan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return run_to_the_end(tiny_config, tiny_dataset, gan, folder), folder


@pytest.mark.parametrize("stops", [(1,), (3, 2, 1, 5), (6,), (17,)])
def test_resumed_run_equals_uninterrupted_one(
    stops, uninterrupted, tiny_config, tiny_dataset, gan, tmp_path
):
    """Bitwise: all arrays, the losses table and the sample grids. Stops are at the ends of 6-step
    epochs and within them."""
    expected, whole = uninterrupted
    state = run_to_the_end(tiny_config, tiny_dataset, gan, tmp_path / "run", stops)
    assert state.step == 18
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert contents(tmp_path / "run") == contents(whole)


def test_balanced_run_resumes_to_the_same_bits(
    uninterrupted, tiny_config, tiny_dataset, gan, tmp_path
):
    config = replace(tiny_config, balance=True)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    expected = run_to_the_end(config, tiny_dataset, gan, whole)
    state = run_to_the_end(config, tiny_dataset, gan, resumed, (8,))
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert contents(resumed) == contents(whole)
    assert contents(whole)["losses.csv"] != contents(uninterrupted[1])["losses.csv"]


def test_extended_run_equals_one_of_full_length(
    uninterrupted, tiny_config, tiny_dataset, gan, tmp_path
):
    expected, whole = uninterrupted
    run_to_the_end(replace(tiny_config, epochs=1), tiny_dataset, gan, tmp_path / "run")
    state = run_to_the_end(tiny_config, tiny_dataset, gan, tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert contents(tmp_path / "run")["losses.csv"] == contents(whole)["losses.csv"]


def test_contents_of_a_run_folder(uninterrupted):
    _, folder = uninterrupted
    rows = (folder / "losses.csv").read_text().splitlines()
    assert len(rows) == 1 + 18
    assert [row.split(",")[:2] for row in rows[1:]] == [
        [str(epoch), str(batch)] for epoch in range(3) for batch in range(6)
    ]
    samples = sorted(path.name for path in (folder / "samples").iterdir())
    assert samples == ["epoch_0001.png", "epoch_0002.png", "epoch_0003.png"]
    assert (folder / "losses.png").stat().st_size > 5_000
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"12", "18"}


def test_tensorboard_events_hold_losses_speed_and_samples(uninterrupted):
    from tensorboardX.proto.event_pb2 import Event

    _, folder = uninterrupted
    (events,) = (folder / "events").iterdir()
    data, tags = events.read_bytes(), {}
    while data:  # length, its checksum, the record, its checksum
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        for value in event.summary.value:
            tags.setdefault(value.tag, []).append(event.step)
        data = data[16 + length :]
    assert tags["loss/discriminator"] == tags["loss/generator"] == [0]
    assert tags["speed/steps_per_second"] == tags["samples"] == [6, 12, 18]


def test_callbacks_see_every_step_once(tiny_config, tiny_dataset, gan):
    calls, compiled, expected, announced = [], [], [], []

    class Recorder(Callback):
        def on_train_start(self, start):
            calls.append(("start", start.step, start.last_step, start.steps_per_epoch))

        def on_compile(self):
            announced.append(len(compiled))

        def on_chunk_end(self, chunk):
            n = len(chunk.losses)
            calls.extend(("step", chunk.epoch, chunk.batch + i) for i in range(n))
            compiled.append(chunk.compiled)
            has_first_last_batch = (chunk.epoch, chunk.batch + n) == (0, 6)
            expected.append(len(compiled) == 1 or has_first_last_batch)
            assert chunk.losses.shape[1] == 2
            assert chunk.step == chunk.state.step == 6 * chunk.epoch + chunk.batch + n

        def on_epoch_end(self, epoch):
            calls.append(("epoch", epoch.epoch, epoch.step, len(epoch.losses)))

        def on_train_end(self, end):
            calls.append(("end", end.step, int(end.state.step)))

    train(gan, replace(tiny_config, epochs=2), tiny_dataset, callbacks=[Recorder()])
    assert calls == [
        ("start", 0, 12, 6),
        *(("step", 0, batch) for batch in range(6)),
        ("epoch", 1, 6, 6),
        *(("step", 1, batch) for batch in range(6)),
        ("epoch", 2, 12, 6),
        ("end", 12, 12),
    ]
    assert compiled == expected  # with the first batch, and with the first smaller last one
    assert sum(compiled) == 2
    assert announced == [i for i, each in enumerate(compiled) if each]


@pytest.mark.slow
@pytest.mark.usefixtures("as_outside_of_tests")
@pytest.mark.parametrize("every", [1, 4])
def test_a_gpu_is_waited_for_once_per_epoch(every, tiny_config, tiny_dataset, gan, monkeypatch):
    """For all programs of an epoch, their losses and the check for NaN; same bits as on a CPU."""
    gan = gan if every == 1 else replace(gan, penalty=WeightedPenalty(r1, every=every))
    expected = train(gan, tiny_config, tiny_dataset)
    waits, array = [], type(jnp.zeros(()))

    def counted(name, wait):
        return lambda *args: waits.append(name) or wait(*args)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # the tests' devices are CPUs
    monkeypatch.setattr(jax, "device_get", counted("device_get", jax.device_get))
    for name in ("__bool__", "__int__", "__float__"):
        monkeypatch.setattr(array, name, counted(name, getattr(array, name)))
    state = train(gan, tiny_config, tiny_dataset)
    monkeypatch.undo()
    assert waits == ["device_get"] * 3
    jax.tree.map(np.testing.assert_array_equal, state, expected)


class InterruptAfter(Callback):
    """Does something at the end of the chunk after which so many steps are done."""

    def __init__(self, steps, action):
        self.left, self.action = steps, action

    def on_chunk_end(self, chunk):
        self.left -= len(chunk.losses)
        if self.left <= 0:
            self.action()

    def interrupt_chunk(self, *arguments):
        """`ChunkRunner.run`, interrupted after the device has taken the old state's buffers."""
        result = run_chunk(*arguments)
        self.left -= len(result.losses)
        if self.left <= 0:
            self.action()
        return result


run_chunk = ChunkRunner.run


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


def train_in(folder, config, dataset, gan, *callbacks):
    """Train in a folder with only final checkpoints; the error that ended it, and the last step."""
    run = RunFolder.start(folder, config, dataset.class_names)
    with Checkpoints(run.checkpoints) as checkpoints:
        error = None
        try:
            train(
                gan,
                config,
                dataset,
                callbacks=[LossesTable(run), SampleGrids(gan, run, every=2, rows=2), *callbacks],
                checkpoints=checkpoints,
                checkpoint_every=1000,
            )
        except BaseException as raised:
            error = type(raised)
    with Checkpoints(run.checkpoints) as checkpoints:
        return error, checkpoints.latest()


@pytest.mark.parametrize("within_chunk", [False, True])
def test_ctrl_c_saves_and_the_run_resumes_to_the_same_bits(
    within_chunk, uninterrupted, tiny_config, tiny_dataset, gan, tmp_path, monkeypatch
):
    """In a program without a handler of its own, at two moments; losses and grids too."""
    interrupt, callbacks = InterruptAfter(8, ctrl_c), []
    if within_chunk:
        monkeypatch.setattr(ChunkRunner, "run", lambda *args: interrupt.interrupt_chunk(*args))
    else:
        callbacks = [interrupt]
    error, step = train_in(tmp_path / "run", tiny_config, tiny_dataset, gan, *callbacks)
    assert error is KeyboardInterrupt
    assert 8 <= step < 18
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    assert train_in(tmp_path / "run", tiny_config, tiny_dataset, gan) == (None, 18)
    expected, folder = uninterrupted
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        state = checkpoints.restore(jax.eval_shape(lambda: expected))
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert contents(tmp_path / "run") == contents(folder)


def test_second_ctrl_c_within_a_chunk_saves_nothing_of_it(
    tiny_config, tiny_dataset, gan, tmp_path, monkeypatch
):
    """The old state's buffers are gone, and the new state has not been checked."""
    interrupt = InterruptAfter(8, lambda: (ctrl_c(), ctrl_c()))
    monkeypatch.setattr(ChunkRunner, "run", lambda *args: interrupt.interrupt_chunk(*args))
    assert train_in(tmp_path / "run", tiny_config, tiny_dataset, gan) == (KeyboardInterrupt, None)


@pytest.mark.parametrize(("error", "saved"), [(ZeroDivisionError, True), (RunError, False)])
def test_error_in_a_callback(error, saved, tiny_config, tiny_dataset, gan, tmp_path):
    """A user's mistake loses no training. What could not be written is written by the resumed run,
    so that starts from the checkpoint before."""

    def fail():
        raise error

    callback = InterruptAfter(8, fail)
    raised, step = train_in(tmp_path / "run", tiny_config, tiny_dataset, gan, callback)
    assert raised is error
    assert (step or 0) >= 8 if saved else step is None


def test_program_keeps_its_own_handler_of_ctrl_c(tiny_config, tiny_dataset, gan, tmp_path):
    caught = []
    before = signal.signal(signal.SIGINT, lambda *_: caught.append("Ctrl-C"))
    try:
        callback = InterruptAfter(17, ctrl_c)
        result = train_in(tmp_path / "run", tiny_config, tiny_dataset, gan, callback)
    finally:
        signal.signal(signal.SIGINT, before)
    assert result == (None, 18)
    assert caught


def test_divergence_stops_the_run_before_a_save(tiny_config, tiny_dataset, gan, tmp_path):
    """NaN weights, as from a far too high learning rate."""
    healthy = jax.jit(gan.init)(random.key(0))
    broken = healthy.replace(
        gen=healthy.gen.replace(params=jax.tree.map(lambda leaf: leaf * np.nan, healthy.gen.params))
    )
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        with pytest.raises(DivergenceError, match="in step 0"):
            train(gan, tiny_config, tiny_dataset, state=broken, checkpoints=checkpoints)
        assert checkpoints.latest() is None


def test_diverged_parameters_with_finite_losses(tiny_config, tiny_dataset, gan, tmp_path):
    """The losses are those before the update: they would become NaN a step later, after a save."""
    divergent = replace(gan, gen_optimizer=optax.scale(np.inf))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        with pytest.raises(
            DivergenceError, match="parameters became NaN or infinite in steps 0 to 0"
        ):
            train(divergent, tiny_config, tiny_dataset, checkpoints=checkpoints)
        assert checkpoints.latest() is None


def test_data_and_networks_must_fit(tiny_config, tiny_dataset, gan):
    images = np.zeros((22, 5, 5, 1), np.uint8)
    other = Dataset.from_arrays(images, tiny_dataset.labels, tiny_dataset.class_names)
    with pytest.raises(ConfigError, match=r"\[5, 5, 1\].*\[4, 4, 1\]"):
        train(gan, tiny_config, other)
    other = Dataset.from_arrays(tiny_dataset.images, tiny_dataset.labels, ("a", "b", "c", "d"))
    with pytest.raises(ConfigError, match="4 classes"):
        train(gan, tiny_config, other)
    with pytest.raises(ConfigError, match="at most the 22"):
        train(gan, replace(tiny_config, batch_size=23), tiny_dataset)


# Batches of a user's own


def tally(gan, state, batch, key):
    """In the place of a training step: D's last bias tells in which order the batches came."""
    number = batch.images.astype(jnp.float32).mean() + random.uniform(key)
    output = state.disc.params["output"]
    bias = 0.5 * output["bias"] + number
    disc = state.disc.replace(params=state.disc.params | {"output": output | {"bias": bias}})
    return state.replace(step=state.step + 1, disc=disc), Losses(number, number)


class Loader:
    """Five batches, the last one smaller; then it is begun again. Counts those that are read.

    Args:
        encode: makes an iterator's state of its position; None for iterators without a state.
        decode: the position in such a state.
        error_at: the number of the batch that cannot be read, once.
    """

    def __init__(self, encode=None, decode=None, error_at=None):
        self.encode, self.decode, self.error_at, self.n_read = encode, decode, error_at, 0

    def __len__(self):
        return 6  # steps that count as an epoch

    def __iter__(self):
        return Positioned(self) if self.encode else iter(Position(self))


class Position:
    """An iterator of a Loader."""

    def __init__(self, loader):
        self.loader, self.position = loader, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.position == 5:
            raise StopIteration
        self.loader.n_read += 1
        if self.loader.n_read == self.loader.error_at:
            raise ZeroDivisionError
        n = 2 if self.position == 4 else 4
        images = np.full((n, 4, 4, 1), 40 * self.position, np.uint8)
        self.position += 1
        return images, np.arange(n) % 3


class Positioned(Position):
    """One with a state, as Grain's iterators have."""

    def get_state(self):
        return self.loader.encode(self.position)

    def set_state(self, state):
        self.position = self.loader.decode(state)


STATES = {
    "none": (None, None),
    "JSON": (lambda position: {"at": [position]}, lambda state: state["at"][0]),
    "bytes": (lambda position: bytes([0, 255, position]), lambda state: state[2]),
}


@pytest.fixture
def train_on(gan, tiny_config, tmp_path):
    """Trains three epochs of six steps on a loader, saving in a folder."""

    def run(loader, folder="run", *callbacks, **options):
        with Checkpoints(tmp_path / folder) as checkpoints:
            state = train(
                gan,
                tiny_config,
                loader,
                step=tally,
                callbacks=callbacks,
                checkpoints=checkpoints,
                **options,
            )
            return state, checkpoints.latest()

    return run


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("stops", [(1,), (4, 1, 9)])
def test_a_run_on_a_loader_resumes_to_the_same_bits(stops, kind, train_on):
    """From its iterator's state, where it has one, nothing is read twice but a batch that was
    looked at; otherwise the batches of the steps that are done are read again."""
    expected, _ = train_on(Loader(), "whole")
    n_read = []
    for n in (*stops, 10**9):
        loader = Loader(*STATES[kind])
        state, step = train_on(loader, "run", StopAfter(n))
        assert step == state.step
        n_read.append(loader.n_read)
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    if kind == "none":
        assert sum(n_read) > 18
    else:
        assert 18 <= sum(n_read) <= 18 + len(stops)


@pytest.mark.parametrize("kind", STATES)
def test_an_error_of_a_loader_loses_no_step(kind, train_on, monkeypatch):
    """It has read some batches of a chunk when it fails: their steps are taken by the next run."""
    monkeypatch.setattr(chunks, "CHUNK_SECONDS", 1e9)  # a step, then five, then six at a time
    expected, _ = train_on(Loader(), "whole")
    with pytest.raises(ZeroDivisionError):
        train_on(Loader(*STATES[kind], error_at=9))
    state, _ = train_on(Loader(*STATES[kind]))
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_a_state_that_is_passed_goes_on_with_the_loader(train_on, gan, tiny_config):
    """In one program: the loader is where the state is, so that no batch is read again."""
    expected, _ = train_on(Loader(), "whole")
    source = IterableSource(loader := Loader())
    first = train(gan, replace(tiny_config, epochs=1), source, step=tally)
    state = train(gan, tiny_config, source, step=tally, state=first)
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert loader.n_read in (18, 19)


def test_a_source_of_ones_own(gan, tiny_config):
    class Numbers:
        steps_per_epoch = 3

        def batches(self, step, n):
            asked.append((step, n))
            images = np.arange(step, step + n, dtype=np.uint8).repeat(4 * 16).reshape(n, 4, 4, 4, 1)
            return Batch(images, np.zeros((n, 4), np.int32))

    asked, seen = [], []
    recorder = Callback()
    recorder.on_chunk_end = lambda chunk: seen.extend(np.floor(chunk.losses[:, 0]).tolist())
    state = train(gan, replace(tiny_config, epochs=2), Numbers(), step=tally, callbacks=[recorder])
    assert state.step == 6
    assert seen == [0, 1, 2, 3, 4, 5]
    assert all(step // 3 == (step + n - 1) // 3 for step, n in asked)


def test_a_damaged_last_checkpoint_is_written_again(train_on, tmp_path):
    """Once the steps since the one before it are taken again."""
    expected, _ = train_on(Loader(), checkpoint_every=2)
    (tmp_path / "run" / "18" / "manifest" / "metadata").write_text("{}")
    state, step = train_on(Loader(), checkpoint_every=2)
    assert step == 18
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    with Checkpoints(tmp_path / "run") as checkpoints:
        restored = checkpoints.restore(jax.eval_shape(lambda: expected))
    jax.tree.map(np.testing.assert_array_equal, restored, expected)


def test_equal_configurations_share_one_gan():
    """So that nothing is traced twice: two Optax transforms are never equal."""
    assert GAN.from_config(TrainConfig(epochs=1)) is GAN.from_config(TrainConfig(epochs=1))
