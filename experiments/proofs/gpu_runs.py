"""The parts of gpu.py that start the main job by its command: beside the report, and bit for bit.

By default JAX takes most of a GPU's memory in each process that uses it. So all commands of a part
come first, and then the part uses the device itself.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cgan_jax.errors import RunError
from experiments import fashion_cgan
from experiments.proofs import parity, report_log
from experiments.proofs.benchmark_parts import programs_in
from experiments.proofs.fault_runs import ROOT, bits
from experiments.proofs.fault_tries import last_lines
from experiments.proofs.gpu_job import Job, dataset_of
from experiments.proofs.gpu_table import Outcome, Row

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"  # without it, a GPU repeats no run bit for bit
ONCE_AN_EPOCH = 1_000  # more batches than an epoch has: the first one's losses are printed
LOSSES_LINE = re.compile(r"\[Epoch \S+ \[Batch \d+/(\d+)\] \[D loss: (.+)\] \[G loss: (.+)\]")
RATE_LINE = re.compile(r"Epoch (\d+)/\d+: .* ([\d.]+) steps/s")


def main_job(job: Job) -> Outcome:
    """The main job by its command: beside the report, killed and resumed, and timed."""
    size, undisturbed, killed = job.size, job.folder / "undisturbed", job.folder / "killed"
    words = [*size.settings, "--epochs", size.short_epochs, "--checkpoint-every", 1]
    words += ["--log-every", 1]
    lines = command(job, undisturbed, *words, xla_flags=DETERMINISTIC)
    middle = f"[Epoch {size.short_epochs // 2}/"
    command(job, killed, *words, xla_flags=DETERMINISTIC, kill_at=middle)
    resumed = command(job._replace(data_dir=None), killed, xla_flags=DETERMINISTIC)
    if not any(line.text.startswith("Resuming") for line in resumed):
        raise RunError("the killed run had saved nothing, so it started over")
    words = [*size.settings, "--epochs", size.epochs, "--log-every", ONCE_AN_EPOCH]
    timed = command(job, job.folder / "timed", *words)

    first = printed_losses(lines)[: report_log.FIRST]
    figures = json.loads(report_log.FIGURES.read_text(encoding="utf-8"))
    offset = float(np.abs(report_log.offsets_of_first(figures, first)).max())
    different = differences(undisturbed, killed)
    rows = [
        Row(f"first {len(first)} losses from the seeds' mean, as the report's", offset, "sd", 4),
        Row("kill -9 and resume: arrays and files that differ", len(different), at_most=0),
        *times(timed, size.epochs),
    ]
    beside = {"ours": first.tolist(), "report": report_log.report_losses()[0].tolist()}
    return Outcome(rows, {"first losses": beside, "differ": different})


def printed_losses(lines: Sequence["Line"]) -> np.ndarray:
    """Both losses of each step that the main job printed, `[steps, 2]`."""
    matches = (LOSSES_LINE.match(line.text) for line in lines)
    return np.array([match.groups()[1:] for match in matches if match], float)


def times(lines: Sequence["Line"], epochs: int) -> list[Row]:
    """Start-up, training after it, and how much of that was in steps."""
    matches = [(line.seconds, LOSSES_LINE.match(line.text)) for line in lines]
    startup, first = next((seconds, match) for seconds, match in matches if match)
    rates = [found.groups() for line in lines if (found := RATE_LINE.match(line.text))]
    in_steps = sum(int(first[1]) / float(rate) for epoch, rate in rates if epoch != "1")
    return [
        Row("seconds from the command to the first losses", startup, "s"),
        Row(f"{epochs} epochs after that", lines[-1].seconds - startup, "s", at_most=20),
        Row("  in steps, without pictures and checkpoints", in_steps, "s"),
    ]


class Line(NamedTuple):
    """What a command printed, and when: in seconds since it was started."""

    seconds: float
    text: str


def command(
    job: Job, folder: Path, *words: object, xla_flags: str = "", kill_at: str | None = None
) -> list[Line]:
    """The main job's command until its end, or until it prints a line that begins so.

    Programs are kept in the job's folder, so that each job compiles its own.

    Raises:
        RunError: it failed, or ended before it could be killed.
    """
    if job.data_dir:
        words = ("--data-dir", job.data_dir, *words)
    settings = programs_in(job.folder)
    settings["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags}".strip()
    lines, began = list[Line](), time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-u", "-m", fashion_cgan.MODULE, "--workdir", folder, *map(str, words)],
        cwd=ROOT,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        for text in process.stdout:
            lines.append(Line(time.perf_counter() - began, text.rstrip()))
            if kill_at and text.startswith(kill_at):
                process.kill()
                break
    if process.returncode != (-signal.SIGKILL if kill_at else 0):
        printed = last_lines("\n".join(line.text for line in lines))
        raise RunError(f"{folder.name} ended with code {process.returncode}: {printed}")
    lines.append(Line(time.perf_counter() - began, ""))
    return lines


def differences(one: Path, other: Path) -> list[str]:
    """What is not the same in two run folders: arrays of the last state, losses, pictures."""
    return sorted({name for name, _ in bits(one).items() ^ bits(other).items()})


def exactness(job: Job) -> Outcome:
    """Repeated runs have the same bits; in float64 each step is PyTorch's, which is on the CPU."""
    import torch

    from experiments.proofs import parity_runs

    torch.set_num_threads(1)
    folders = [job.folder / name / "run" for name in ("first", "second")]
    for folder in folders:
        words = [*job.size.settings, "--epochs", job.size.short_epochs]
        alone = job._replace(folder=folder.parent)  # each compiles for itself
        command(alone, folder, *words, xla_flags=DETERMINISTIC)
    different = differences(*folders)
    rows = [Row("two runs: arrays and files that differ", len(different), at_most=0)]
    config, data = job.size.float64, dataset_of(job.size.float64, job.data_dir)
    n = job.size.float64_steps
    steps = list(parity_runs.compare_steps(config, data, n, dtype="float64"))
    for row in parity.worst(steps, parity.FLOAT64, n, "float64"):
        rows.append(Row(f"float64, {n} steps, {row.what}", row.difference, at_most=row.bound))
    return Outcome(rows, {"differ": different})
