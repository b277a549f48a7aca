"""A whole training run from the command line: any data set and configuration, one run folder.

The flags of each experiment are in its own file; the loop itself is cgan_jax.training.loop.
"""

import contextlib
import shlex
import sys
import time
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from cgan_jax.config import TrainConfig, leaves
from cgan_jax.data import Dataset
from cgan_jax.errors import RunError
from cgan_jax.files import atomic_write
from cgan_jax.pictures.grids import grid, labelled_examples
from cgan_jax.reporting.callbacks import LossesTable, SampleGrids, TensorBoard
from cgan_jax.reporting.measures import BestCheckpoint, MeasuresTable
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.lock import run_lock
from cgan_jax.training import hosts
from cgan_jax.training.callbacks import Callback, SpanEnd
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import train
from cgan_jax.training.sharding import check_shares, data_mesh
from cgan_jax.training.spans import steps_per_epoch
from experiments.shared.command_line import StopSignals
from experiments.shared.compile_cache import keep_programs
from experiments.shared.page import write_or_warn
from experiments.shared.progress import Progress, duration


def run(
    config: TrainConfig,
    dataset: Dataset,
    workdir: Path,
    *,
    sample_every: int,
    checkpoint_every: int,
    log_every: int = 0,
    eval_every: int = 0,
    resume: bool = True,
    n_devices: int | None = None,
) -> None:
    """Train in a run folder until the configuration's last epoch, or a signal to stop.

    Where several processes train it, all call this alike, and the first has the folder.

    Raises:
        SystemExit: 128 + the signal's number, after a stop.
        RunError: the folder holds something else, is in use, or cannot be written.
    """
    keep_programs()
    together = jax.process_count() > 1
    n_devices = n_devices or (jax.device_count() if together else 1)
    mesh = data_mesh(n_devices) if n_devices > 1 or together else None
    if mesh:
        check_shares(config.batch_size, mesh)
    stop = StopSignals()
    if not hosts.is_leader():
        with stop.listening():
            _follow(config, dataset, mesh)
        if stop.caught:
            raise SystemExit(128 + stop.caught)
        return
    data = dataset.identity()
    RunFolder.check(workdir, config, resume=resume, data=data)
    with contextlib.ExitStack() as stack:
        stack.enter_context(run_lock(workdir))
        folder = RunFolder.start(
            workdir,
            config,
            dataset.class_names,
            resume=resume,
            n_devices=n_devices,
            data=data,
        )
        stack.enter_context(stop.listening())
        checkpoints = stack.enter_context(Checkpoints(folder.checkpoints))
        gan, state, step = GAN.from_config(config), None, 0
        like = jax.eval_shape(gan.init, jax.random.key(0))
        per_epoch = steps_per_epoch(len(dataset), config.batch_size)
        last_step = config.epochs * per_epoch
        if checkpoints.latest() is not None:
            state = checkpoints.restore(like)
            step = int(state.step)
        else:
            check_not_lost(folder, checkpoint_every * per_epoch)
        hosts.broadcast_state(state, like)
        if step >= last_step:
            print(f"{workdir} is finished: {step:,} steps. More --epochs would make it longer.")
            return
        epochs = f"{config.epochs} epoch{'s' * (config.epochs > 1)}"
        print(
            f"{'Going on' if step else 'Training'} in {workdir}: "
            + (f"step {step:,} of {last_step:,}" if step else epochs)
            + f", {last_step - step:,} steps to take on {device(n_devices)}. "
            + "Ctrl-C stops and saves; the same command goes on."
        )
        with atomic_write(folder.command) as temporary:
            temporary.write_text(command() + "\n", encoding="utf-8")
        draw_real_images(dataset, folder.path / "real.png")
        looks = _looks(gan, folder, dataset, eval_every) if eval_every else []
        began = time.perf_counter()
        state = train(
            gan,
            config,
            dataset,
            state=state,
            callbacks=[
                LossesTable(folder, plot_every=sample_every),
                SampleGrids(gan, folder, every=sample_every),
                *looks,
                TensorBoard(folder),
                Progress(config.epochs, log_every, folder),
            ],
            checkpoints=checkpoints,
            checkpoint_every=checkpoint_every,
            should_stop=stop,
            mesh=mesh,
        )
        taken, reached = duration(time.perf_counter() - began), int(state.step)
        page = write_or_warn(folder.path)
    if reached < last_step and stop.caught:
        print(f"Stopped and saved after step {reached:,} of {last_step:,}. To go on: {command()}")
        raise SystemExit(128 + stop.caught)
    look = f" To look at: {page}" if page else ""
    print(f"Finished: {reached - step:,} steps in {taken}.{look}")


def _follow(config: TrainConfig, dataset: Dataset, mesh: Mesh | None) -> None:
    """Take the steps that the first process takes."""
    gan = GAN.from_config(config)
    state = hosts.broadcast_state(None, jax.eval_shape(gan.init, jax.random.key(0)))
    train(gan, config, dataset, state=state, mesh=mesh)


def describe(config: TrainConfig, dataset: Dataset, workdir: Path, *, resume: bool = True) -> None:
    """Print what `run` would do, and how long it would take here; train and write nothing."""
    keep_programs()
    for name, value in leaves(config):
        print(f"{name:<28} {value}")
    gan = GAN.from_config(config)
    shapes = jax.eval_shape(gan.init, jax.random.key(0))
    total = config.epochs * steps_per_epoch(len(dataset), config.batch_size)
    left, steps = total, f"{total:,} steps"
    if resume and (workdir / "config.json").exists():
        left -= min(total, RunFolder.open(workdir).steps_logged())
        steps = f"{left:,} of the {steps}"
    timer = _Timer()
    train(gan, config, dataset, callbacks=[timer], should_stop=timer.is_done)
    print(f"{'generator':<28} {_size(shapes.gen.params):,} parameters")
    print(f"{'discriminator':<28} {_size(shapes.disc.params):,} parameters")
    print(f"{'data':<28} {len(dataset):,} images from {dataset.source}")
    print(f"{'run folder':<28} {workdir}")
    print(f"{'device':<28} {device()}")
    print(
        f"{'expected time':<28} {duration(left / timer.steps_per_second())} for {steps} "
        f"({timer.steps_per_second():.0f} a second, measured just now)"
    )


class _Timer(Callback):
    """Times a few seconds of training, leaving out spans that compile and warm up.

    Those are the first two, and the first of an epoch's last batch, which is smaller.
    """

    def __init__(self, seconds: float = 3.0) -> None:
        self._wanted = seconds
        self._spans: list[SpanEnd] = []

    def on_train_start(self, step: int, last_step: int, steps_per_epoch: int) -> None:
        self._last_batch = steps_per_epoch - 1

    def on_span_end(self, span: SpanEnd) -> None:
        self._spans.append(span)

    def is_done(self) -> bool:
        return sum(span.seconds for span in self._warm()) > self._wanted

    def _warm(self) -> list[SpanEnd]:
        return [s for s in self._spans[2:] if s.epoch or s.batch != self._last_batch]

    def steps_per_second(self) -> float:
        spans = self._warm() or self._spans
        return sum(len(span.losses) for span in spans) / sum(span.seconds for span in spans)


def _looks(gan: GAN, folder: RunFolder, dataset: Dataset, every: int) -> list[Callback]:
    """What measures the quality as training goes on."""
    from cgan_jax.metrics.quick import CHOSEN_BY, N_IMAGES, quick_measures

    measure = quick_measures(dataset)
    table = MeasuresTable(gan, folder, measure, every, n_images=N_IMAGES)
    return [table, BestCheckpoint(folder, by=CHOSEN_BY)]


def check_not_lost(folder: RunFolder, save_every: int) -> None:
    """Raises RunError where a run without checkpoints has trained long enough to have had some."""
    if folder.steps_logged() > save_every:
        raise RunError(
            f"{folder.checkpoints} is empty, though {folder.losses} has "
            f"{folder.steps_logged():,} steps.\nPut the checkpoints back; or begin anew in another "
            "folder, or with --no-resume, which moves this run aside."
        )


def draw_real_images(dataset: Dataset, path: Path) -> None:
    """A grid of the first real images of each class, unless it is there."""
    if not path.exists():
        n_classes = len(dataset.class_names)
        examples = labelled_examples(dataset.images, dataset.labels, n_classes, rows=10)
        with atomic_write(path) as temporary:
            grid(examples, dataset.class_names).save(temporary)


def device(n_devices: int = 1) -> str:
    """What JAX computes on, as a person says it."""
    device = jax.devices()[0]
    if n_devices > 1:
        return f"{n_devices} devices ({device.device_kind})"
    return "the CPU" if device.platform == "cpu" else f"a GPU ({device.device_kind})"


def _size(params: object) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def command() -> str:
    """The command that was given, to be given again."""
    module = getattr(sys.modules["__main__"].__spec__, "name", sys.argv[0])
    words = [word for word in sys.argv[1:] if word != "--no-resume"]
    return shlex.join(["python", "-m", module, *words])
