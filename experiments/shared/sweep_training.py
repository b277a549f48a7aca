"""A whole sweep from the command line: one program after another, each with several runs.

The flags are in experiments/sweep.py, the loop in cgan_jax/training/sweep.py.
"""

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cgan_jax.config import TrainConfig
from cgan_jax.data import Dataset
from cgan_jax.files import write_text
from cgan_jax.reporting.callbacks import LossesTable, SampleGrids, TensorBoard
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.lock import run_lock
from cgan_jax.training.gan import GAN
from cgan_jax.training.spans import steps_per_epoch
from cgan_jax.training.stop_signals import StopSignals
from cgan_jax.training.sweep import Member, train_members
from experiments.shared.compile_cache import keep_programs
from experiments.shared.page import write_or_warn
from experiments.shared.progress import Progress, duration
from experiments.shared.sweep_folder import SweepFolder
from experiments.shared.sweep_summary import summarize
from experiments.shared.training import (
    check_not_lost,
    device,
    draw_real_images,
    keep_class_counts,
    resume_command,
)


def run(
    programs: Sequence[dict[str, TrainConfig]],
    dataset: Dataset,
    workdir: Path,
    *,
    command: str,
    data: Mapping[str, Any] | None = None,
    sample_every: int,
    checkpoint_every: int,
    member_commands: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Train all members in a sweep's folder, or until a signal to stop; then print a summary.

    Args:
        programs: for each program, the members that it trains together, by name.
        dataset: the training images.
        workdir: the sweep's folder.
        command: the command that repeats all of this, kept in the folder.
        data: what new runs record of their data; by default `dataset.identity()`.
        sample_every: epochs between two grids of samples.
        checkpoint_every: epochs between two checkpoints.
        member_commands: by a member's name, the command that trains it alone, kept in its folder.

    Raises:
        SystemExit: 128 + the signal's number, after a stop.
        RunError: the folder holds something else, is in use, or cannot be written.
    """
    keep_programs()
    data = data or dataset.identity()
    members = {name: config for program in programs for name, config in program.items()}
    SweepFolder.check(workdir, members)
    first = next(iter(members.values()))  # all members have its epochs and its batch size
    epochs, per_epoch = first.epochs, steps_per_epoch(len(dataset), first.batch_size)
    stop = StopSignals()
    with contextlib.ExitStack() as stack:
        stack.enter_context(run_lock(workdir))
        sweep = SweepFolder.start(workdir, members)
        write_text(workdir / "command.txt", command + "\n")
        stack.enter_context(stop.listening())
        print(
            f"Training {len(members)} runs in {workdir}, {len(programs[0])} at once, {epochs} "
            f"epochs each, on {device()}. Ctrl-C stops and saves; the same command resumes."
        )
        began = time.perf_counter()
        for number, program in enumerate(programs, start=1):
            if len(programs) > 1:
                print(f"Program {number} of {len(programs)}: {', '.join(program)}")
            if all(name in sweep.diverged for name in program):
                continue
            every = sample_every, checkpoint_every
            step = _train(sweep, program, dataset, data, per_epoch, *every, stop, member_commands)
            for name in program:
                write_or_warn(workdir / name)
            if step < epochs * per_epoch and stop.caught:
                again = resume_command(command, workdir)
                print(f"Stopped and saved after step {step:,}. To resume: {again}")
                raise SystemExit(128 + stop.caught)
    print(f"Finished in {duration(time.perf_counter() - began)}.\n")
    print(summarize(sweep, members, per_epoch))
    print(f"\nEach run has its own folder in {workdir}, beside sweep.csv and sweep.png.")


def _train(
    sweep: SweepFolder,
    program: dict[str, TrainConfig],
    dataset: Dataset,
    data: Mapping[str, Any],
    per_epoch: int,
    sample_every: int,
    checkpoint_every: int,
    stop: StopSignals,
    commands: Mapping[str, str],
) -> int:
    """Train one program's members until their end or a stop, and return the last step."""
    members = []
    with contextlib.ExitStack() as stack:
        for name, config in program.items():
            stack.enter_context(run_lock(sweep.path / name))
            folder = RunFolder.start(sweep.path / name, config, dataset.class_names, data=data)
            checkpoints = stack.enter_context(Checkpoints(folder.checkpoints))
            if name not in sweep.diverged:
                check_not_lost(folder, checkpoint_every * per_epoch)
            if name in commands:
                write_text(folder.command, commands[name] + "\n")
            keep_class_counts(dataset, folder.class_counts)
            draw_real_images(dataset, folder.path / "real.png")
            callbacks = [
                LossesTable(folder, plot_every=sample_every),
                SampleGrids(
                    GAN.from_config(config), folder, every=sample_every, training=dataset.images
                ),
                TensorBoard(folder),
            ]
            members.append(Member(name, config, callbacks, checkpoints))
        states = train_members(
            members,
            dataset,
            callbacks=[Progress(members[0].config.epochs)],
            checkpoint_every=checkpoint_every,
            should_stop=stop,
            diverged=sweep.diverged,
            on_divergence=sweep.note_divergence,
        )
    return int(states[0].step)
