"""A whole sweep from the command line: its runs one after another, in one process.

So they share compiled programs where only seeds differ. The flags are in experiments/sweep.py; each
run is training.py's.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgan_jax.bars import duration
from cgan_jax.config import TrainConfig
from cgan_jax.data import Dataset
from cgan_jax.data.sources import steps_per_epoch
from cgan_jax.errors import DivergenceError
from cgan_jax.files import write_text
from cgan_jax.runs.lock import run_lock
from cgan_jax.training.stop_signals import StopSignals
from experiments.shared import training
from experiments.shared.sweep_folder import SweepFolder
from experiments.shared.sweep_summary import summarize
from experiments.shared.training_flags import OutputFlags

_log = logging.getLogger("cgan_jax")


def run(
    members: Mapping[str, TrainConfig],
    dataset: Dataset,
    workdir: Path,
    output: OutputFlags,
    *,
    command: str,
    member_commands: Mapping[str, str],
    data: Mapping[str, Any] | None = None,
) -> None:
    """Train all members in a sweep's folder, or until a signal to stop; then print a summary.

    Args:
        members: the runs' configurations, by the names of their folders.
        dataset: the training images.
        workdir: the sweep's folder.
        output: what each run writes.
        command: the command that repeats all of this, kept in the folder.
        member_commands: for each member, the command that trains it alone, kept in its folder.
        data: what new runs record of their data; by default `dataset.identity()`.

    Raises:
        SystemExit: 128 + the signal's number, after a stop.
        RunError: the folder holds something else, is in use, or cannot be written.
    """
    SweepFolder.check(workdir, members)
    stop, began = StopSignals(), time.perf_counter()
    with run_lock(workdir), stop.listening():
        sweep = SweepFolder.start(workdir, members)
        write_text(workdir / "command.txt", command + "\n")
        try:
            for number, (name, config) in enumerate(members.items(), start=1):
                if name in sweep.diverged:
                    continue
                if stop.caught:  # when the run before had no more steps to take
                    raise SystemExit(128 + stop.caught)
                print(f"Run {number} of {len(members)}: {name}", flush=True)
                try:
                    training.run(
                        config,
                        dataset,
                        workdir / name,
                        output,
                        command=member_commands[name],
                        data=data,
                        stop=stop,
                    )
                except DivergenceError as error:
                    _log.warning("%s: %s", name, error)
                    sweep.note_divergence(name, error.step or 0)
        except SystemExit:
            print(f"To resume the sweep: {training.resume_command(command, workdir)}")
            raise
    print(f"Finished in {duration(time.perf_counter() - began)}.\n")
    per_epoch = {
        name: steps_per_epoch(len(dataset), config.images_per_step)
        for name, config in members.items()
    }
    print(summarize(sweep, members, per_epoch))
    print(f"\nEach run has its own folder in {workdir}, beside sweep.csv and sweep.png.")
