"""A whole training run from the command line: any data set and configuration, one run folder.

The flags are in training_flags.py; the loop itself is cgan_jax/training/loop.py.
"""

import contextlib
import shlex
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from cgan_jax.bars import duration
from cgan_jax.checks import plural
from cgan_jax.config import TrainConfig, leaves
from cgan_jax.data import Dataset
from cgan_jax.data.dataset import Placement
from cgan_jax.data.sources import DatasetSource, steps_per_epoch
from cgan_jax.errors import ConfigError, RunError
from cgan_jax.files import atomic_write, write_text
from cgan_jax.metrics.measures import Measure
from cgan_jax.pictures.grids import grid, labelled_examples, rows_for, shown_classes
from cgan_jax.reporting.callbacks import LossesTable, SampleGrids, TensorBoard
from cgan_jax.reporting.measures import BestCheckpoint, MeasuresTable
from cgan_jax.runs import initialize
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.initialize import Loaded
from cgan_jax.runs.lock import run_lock
from cgan_jax.runs.tables import write_class_counts
from cgan_jax.training.callbacks import Callback, ChunkEnd, StopWhen
from cgan_jax.training.chunks import ChunkRunner
from cgan_jax.training.gan import GAN, GANState
from cgan_jax.training.hosts import is_leader
from cgan_jax.training.loop import newest_state, train
from cgan_jax.training.progress import Progress, speed
from cgan_jax.training.sharding import check_shares, data_mesh
from cgan_jax.training.step import run_keys
from cgan_jax.training.stop_signals import StopSignals
from experiments.shared.compile_cache import keep_programs
from experiments.shared.page import write_or_warn
from experiments.shared.reference import own_reference
from experiments.shared.training_flags import DeviceFlags, OutputFlags

ONE_DEVICE = DeviceFlags()


def run(
    config: TrainConfig,
    dataset: Dataset,
    workdir: Path,
    output: OutputFlags,
    *,
    command: str,
    data: Mapping[str, Any] | None = None,
    resume: bool = True,
    device: DeviceFlags = ONE_DEVICE,
    init_from: Path | None = None,
    stop: StopSignals | None = None,
) -> None:
    """Train in a run folder until the configuration's last epoch, or a signal to stop.

    Where several processes train it, all call this alike, and the first has the folder.

    Args:
        config: what to train.
        dataset: the training images.
        workdir: the run's folder.
        output: what the run writes and prints.
        command: the command that repeats all of this, kept in the folder.
        data: what a new run records of its data; by default `dataset.identity()`.
        resume: resume a run that is there; otherwise move it aside.
        device: which devices share each batch, and where the images are kept.
        init_from: the run whose weights a new run starts from; by default the seed draws them.
        stop: catches the signals, for a caller that has to know of one that came after the last
            step; by default its own.

    Raises:
        SystemExit: 128 + the signal's number, after a stop.
        ConfigError: the run to start from has other networks.
        RunError: the folder holds something else, is in use, or cannot be written.
    """
    keep_programs()
    gan, mesh, stop = GAN.from_config(config), _mesh(config, device.devices), stop or StopSignals()
    if not is_leader():
        return _follow(gan, config, dataset, mesh, device.placement, stop)
    last_step = config.epochs * steps_per_epoch(len(dataset), config.images_per_step)
    data = data or dataset.identity()
    first = _first_state(gan, config, dataset, data, workdir, resume, init_from)
    with contextlib.ExitStack() as stack:
        folder = _open(stack, config, dataset, data, workdir, output, resume, mesh)
        checkpoints = stack.enter_context(Checkpoints(folder.checkpoints))
        if first:
            _keep_first_state(folder, checkpoints, *first)
        del first  # read back below; its arrays would stay on the device
        state = newest_state(gan, checkpoints)
        step = int(state.step) if state else 0
        if step < last_step:
            write_text(folder.command, command + "\n")
        measure = _quick_measures(dataset) if output.eval_every and step < last_step else None
        stack.enter_context(stop.listening())
        print(_first_line(workdir, config, step, last_step, mesh))
        if step >= last_step:
            return
        state, took = _train(
            gan, folder, dataset, output, measure, state, checkpoints, stop, mesh, device.placement
        )
        page = write_or_warn(folder.path)
    print(_last_line(command, workdir, page, step, int(state.step), last_step, took))
    if int(state.step) < last_step and stop.caught:
        raise SystemExit(128 + stop.caught)


def _train(
    gan: GAN,
    folder: RunFolder,
    dataset: Dataset,
    output: OutputFlags,
    measure: Measure | None,
    state: GANState | None,
    checkpoints: Checkpoints,
    stop: StopSignals,
    mesh: Mesh | None,
    placement: Placement,
) -> tuple[GANState, float]:
    """Train in a folder that is open, see `cgan_jax.train`; the last state, and the seconds."""
    draw_real_images(dataset, folder.path / "real.png")
    began = time.perf_counter()
    state = train(
        gan,
        folder.config,
        dataset,
        state=state,
        callbacks=[*_callbacks(gan, folder, dataset, output, measure), StopWhen(stop)],
        checkpoints=checkpoints,
        checkpoint_every=output.checkpoint_every,
        mesh=mesh,
        placement=placement,
    )
    return state, time.perf_counter() - began


def _follow(
    gan: GAN,
    config: TrainConfig,
    dataset: Dataset,
    mesh: Mesh | None,
    placement: Placement,
    stop: StopSignals,
) -> None:
    """Take the same steps as the first process, which has the folder."""
    with stop.listening():
        state = newest_state(gan, None)  # the first process shares its own
        train(gan, config, dataset, state=state, mesh=mesh, placement=placement)
    if stop.caught:
        raise SystemExit(128 + stop.caught)


def _mesh(config: TrainConfig, n_devices: int | None) -> Mesh | None:
    """The devices that share each batch; None for JAX's first one alone."""
    several_processes = jax.process_count() > 1
    n_devices = n_devices or (jax.device_count() if several_processes else 1)
    if n_devices == 1 and not several_processes:
        return None
    mesh = data_mesh(n_devices)
    check_shares(config.batch_size, mesh)
    return mesh


def _open(
    stack: contextlib.ExitStack,
    config: TrainConfig,
    dataset: Dataset,
    data: Mapping[str, Any],
    workdir: Path,
    output: OutputFlags,
    resume: bool,
    mesh: Mesh | None,
) -> RunFolder:
    """Check the run folder, lock it until the stack ends, and make or open it."""
    RunFolder.check(workdir, config, resume=resume, data=data)  # before anything is written
    stack.enter_context(run_lock(workdir))
    n_devices = mesh.size if mesh else 1
    folder = RunFolder.start(
        workdir, config, dataset.class_names, resume=resume, n_devices=n_devices, data=data
    )
    check_not_lost(
        folder, output.checkpoint_every * steps_per_epoch(len(dataset), config.images_per_step)
    )
    keep_class_counts(dataset, folder.class_counts)
    return folder


def _first_state(
    gan: GAN,
    config: TrainConfig,
    dataset: Dataset,
    data: Mapping[str, Any],
    workdir: Path,
    resume: bool,
    init_from: Path | None,
) -> tuple[GANState, Loaded] | None:
    """The weights of another run, to start from; None where a run is resumed, or draws its own.

    Raises:
        ConfigError: the other run does not fit, or the run to resume started from another one.
        RunError: the other run cannot be read.
    """
    if init_from is None:
        return None
    run = RunFolder.check(workdir, config, resume=resume, data=data)
    # Not what a save that was cut left there, which has a longer name.
    if run is None or not any(path.name.isdecimal() for path in run.checkpoints.glob("*")):
        return initialize.init_from(gan, config, dataset.class_names, init_from)
    before = initialize.source_of(run)
    places = {str(init_from), str(init_from.resolve())}
    if before is None or not places & {before, str(Path(before).resolve())}:
        start = f"started from {before}" if before else "drew its own weights"
        raise ConfigError(
            f"{workdir} holds a run that {start}\n"
            f"expected one that started from {init_from}, or no run yet\n"
            "Omit --init-from to resume it, or give another --workdir."
        )
    return None


def _keep_first_state(
    folder: RunFolder, checkpoints: Checkpoints, state: GANState, loaded: Loaded
) -> None:
    """Save the weights that a run starts from, and where they are from: it is resumed with them."""
    print(loaded)
    loaded.save(folder)
    checkpoints.save(0, state)


def _quick_measures(dataset: Dataset) -> Measure:
    """What --eval-every measures; of a user's own data, with a reference classifier of them.

    To be called before signals are caught, since Ctrl-C is to end it at once; and after the first
    word from other processes, which wait longer then.
    """
    from cgan_jax.metrics.quick import quick_measures
    from cgan_jax.metrics.reference import is_fashion_mnist

    # A class with a single image has none to judge the classifier by.
    has_reference = not is_fashion_mnist(dataset) and dataset.class_counts().max() > 1
    return quick_measures(dataset, own_reference(dataset) if has_reference else None)


def _callbacks(
    gan: GAN, folder: RunFolder, dataset: Dataset, output: OutputFlags, measure: Measure | None
) -> list[Callback]:
    """What writes the run's files and shows its progress."""
    evaluation: list[Callback] = []
    if measure:
        from cgan_jax.metrics.quick import CHOSEN_BY, N_IMAGES

        table = MeasuresTable(gan, folder, measure, output.eval_every, n_images=N_IMAGES)
        evaluation = [table, BestCheckpoint(folder, by=CHOSEN_BY)]
    return [
        LossesTable(folder, plot_every=output.sample_every),
        SampleGrids(gan, folder, every=output.sample_every, training=dataset.images),
        *evaluation,
        TensorBoard(folder),
        Progress(output.log_every),
    ]


def _first_line(
    workdir: Path, config: TrainConfig, step: int, last_step: int, mesh: Mesh | None
) -> str:
    """What is about to be trained, where and on what; or that it is finished."""
    if step >= last_step:
        done = f"{plural(step, 'step')}, {plural(config.epochs * step // last_step, 'epoch')}"
        ends = ", at the last values of its schedules" * config.has_schedules
        return f"{workdir} is finished: {done}. A larger --epochs makes it longer{ends}."
    what = f"step {step:,} of {last_step:,}" if step else plural(config.epochs, "epoch")
    end = config.has_schedules and config.schedule_steps
    if end and end < last_step:
        what += f" (its schedules end at step {end:,}; their last values then stay)"
    return (
        f"{'Resuming' if step else 'Training'} in {workdir}: {what}, "
        f"{plural(last_step - step, 'step')} to take on "
        f"{describe_device(mesh.size if mesh else 1)}. "
        "Ctrl-C stops and saves; the same command resumes."
    )


def _last_line(
    command: str,
    workdir: Path,
    page: Path | None,
    step: int,
    reached: int,
    last_step: int,
    seconds: float,
) -> str:
    """How training from `step` on ended, and what to do next."""
    if reached < last_step:
        again = resume_command(command, workdir)
        return f"Stopped and saved after step {reached:,} of {last_step:,}. To resume: {again}"
    to_look_at = f" To look at: {page}" if page else ""
    return f"Finished: {reached - step:,} steps in {duration(seconds)}.{to_look_at}"


def resume_command(command: str, workdir: Path) -> str:
    """The shortest command that resumes a run: its folder is enough."""
    words = shlex.split(command)[:3]
    return shlex.join([*words, "--workdir", str(workdir)])


def describe(
    config: TrainConfig,
    dataset: Dataset,
    workdir: Path,
    *,
    data: Mapping[str, Any] | None = None,
    resume: bool = True,
    device: DeviceFlags = ONE_DEVICE,
    init_from: Path | None = None,
) -> None:
    """Print what `run` would do, how long and in how much memory; train and write nothing."""
    keep_programs()
    for name, value in leaves(config):
        print(f"{name:<28} {value}")
    gan = GAN.from_config(config)
    data = data or dataset.identity()
    first = _first_state(gan, config, dataset, data, workdir, resume, init_from)
    shapes = jax.eval_shape(gan.init, jax.random.key(0))
    total = config.epochs * steps_per_epoch(len(dataset), config.images_per_step)
    left, steps = total, f"{total:,} steps"
    if resume and (workdir / "config.json").exists():
        left -= min(total, RunFolder.open(workdir).steps_done())
        steps = f"{left:,} of the {steps}"
    timer = PaceTimer()
    mesh = _mesh(config, device.devices)
    placement = device.placement
    train(gan, config, dataset, callbacks=[timer], mesh=mesh, placement=placement, progress=False)
    for name, net in (("generator", shapes.gen), ("discriminator", shapes.disc)):
        print(f"{name:<28} {sum(leaf.size for leaf in jax.tree.leaves(net.params)):,} parameters")
    print(f"{'data':<28} {len(dataset):,} images from {dataset.source}")
    height, width, channels = dataset.images.shape[1:]
    print(f"{'images':<28} {height} x {width} pixels, {plural(channels, 'channel')}")
    print(f"{'classes':<28} {dataset.count_words()}")
    if first:
        print(first[1])
    print(f"{'run folder':<28} {workdir}")
    print(f"{'device':<28} {describe_device(mesh.size if mesh else 1)}")
    keys = run_keys(config.seed)
    source = DatasetSource(
        dataset, config.images_per_step, keys.order, placement=placement, mesh=mesh
    )
    runner = ChunkRunner(gan, source, keys.steps, config, mesh=mesh)
    each = "each" if mesh else "the"
    needed = program_memory(runner.lower(shapes)) / 2**20
    print(f"{'images are kept':<28} {source}")
    print(f"{'memory':<28} {needed:,.0f} MiB on {each} device, as XLA counts it")
    print(
        f"{'expected time':<28} {duration(left / timer.steps_per_second())} for {steps} "
        f"({speed(timer.steps_per_second())}, measured just now)"
    )


def program_memory(program: jax.stages.Lowered) -> int:
    """Bytes that a program takes on a device: arguments, results and temporary values."""
    analysis = program.compile().memory_analysis()
    assert analysis  # every platform of JAX has it
    total: int = (
        analysis.argument_size_in_bytes
        + analysis.temp_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
    )
    return total


class PaceTimer(Callback):
    """Times a few seconds of training, without the chunks that compile and the first one after.

    Attributes:
        chunks: all chunks so far.
    """

    def __init__(self, seconds: float = 3.0) -> None:
        self._wanted = seconds
        self.chunks: list[ChunkEnd] = []

    def on_chunk_end(self, chunk: ChunkEnd) -> None:
        self.chunks.append(replace(chunk, state=None))  # type: ignore[arg-type]  # it is donated

    def should_stop(self) -> bool:
        return sum(chunk.seconds for chunk in self._warm()) > self._wanted

    def _warm(self) -> list[ChunkEnd]:
        return [chunk for chunk in self.chunks if not chunk.compiled][1:]

    def steps_per_second(self) -> float:
        chunks = self._warm() or self.chunks
        return sum(len(chunk.losses) for chunk in chunks) / sum(chunk.seconds for chunk in chunks)


def check_not_lost(folder: RunFolder, save_every: int) -> None:
    """Raises RunError where a run without checkpoints has trained long enough to have had some."""
    if folder.steps_saved() == 0 and folder.steps_logged() > save_every:
        raise RunError(
            f"{folder.checkpoints} is empty, though {folder.losses} has "
            f"{folder.steps_logged():,} steps.\nRestore the checkpoints; or start over in another "
            "folder, or with --no-resume, which moves this run aside."
        )


def draw_real_images(dataset: Dataset, path: Path) -> None:
    """A grid of the first real images of each class, unless it is there."""
    if not path.exists():
        n_classes = len(dataset.class_names)
        shown = shown_classes(n_classes)
        rows = rows_for(n_classes)
        examples = labelled_examples(dataset.images, dataset.labels, n_classes, rows)[:, shown]
        with atomic_write(path) as temporary:
            grid(examples, [dataset.class_names[label] for label in shown]).save(temporary)


def keep_class_counts(dataset: Dataset, path: Path) -> None:
    """Write how many images each class has, unless it is there."""
    if not path.exists():
        write_class_counts(path, dataset.class_names, dataset.class_counts().tolist())


def describe_device(n_devices: int = 1) -> str:
    """What JAX computes on, as a person says it."""
    first = jax.devices()[0]
    if n_devices > 1:
        return f"{n_devices} devices ({first.device_kind})"
    return "the CPU" if first.platform == "cpu" else f"a GPU ({first.device_kind})"
