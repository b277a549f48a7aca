"""What gpu.py measures. Each part returns lines of the table, and runs in a process of its own.

The parts that start the main job are in gpu_runs.py, and how much is measured is in gpu_job.py.
"""

import contextlib
import csv
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cgan_jax.config import TrainConfig
from cgan_jax.data import Dataset
from cgan_jax.environment import environment
from cgan_jax.errors import RunError
from cgan_jax.files import atomic_write
from cgan_jax.interop import largest_difference, load_stablehlo, save_stablehlo
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import train
from experiments.proofs import benchmark_parts, report_log
from experiments.proofs.benchmark import OURS, PEER, from_proc, in_turns
from experiments.proofs.gpu_job import PRECISIONS, REPORT, Job, dataset_of
from experiments.proofs.gpu_runs import exactness, main_job
from experiments.proofs.gpu_table import Outcome, Row
from experiments.proofs.processes import in_own_process, isolated
from experiments.shared.training import PaceTimer

N_SAMPLES = 10_000
MOST_BATCHES = 120  # of an epoch of a preset


def machine() -> dict[str, Any]:
    """Versions, system, device and driver."""
    driver = None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        printed = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
        driver = printed.stdout.splitlines()[0].strip() if printed.stdout else None
    return environment() | {
        "platform": jax.default_backend(),
        "driver": driver,
        "system": platform.platform(),
        "processor": from_proc("cpuinfo", "model name") or platform.processor(),
    }


def run_part(name: str, job: Job) -> Outcome:
    """Run a part, as the leader of the processes that it starts."""
    os.setsid()
    return PARTS[name](job)


def speed(job: Job) -> Outcome:
    """Steps per second beside PyTorch on the same device, in turns, each in its own process."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # they share the memory
    if not job.on_gpu:
        os.environ["OMP_NUM_THREADS"] = "1"  # in a rehearsal: PyTorch's threads wait for each other
    device = "cuda" if job.on_gpu else "cpu"
    variants = benchmark_parts.torch_variants(device, compiled=job.on_gpu)
    failed: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        timers = {
            OURS: stack.enter_context(
                in_own_process(benchmark_parts.training_timer, REPORT, job.data_dir)
            )
        } | {
            name: stack.enter_context(
                in_own_process(benchmark_parts.torch_stopwatch, variant, device, job.data_dir)
            )
            for name, variant in variants.items()
            if variant != "dataloader"
        }
        for name, timer in list(timers.items()):
            try:
                timer(job.size.steps)  # compiles
            except RunError as error:
                failed[name] = str(error)
                del timers[name]
        rates = in_turns(timers, job.size.rounds, job.size.steps)
    rows = [Row(name, statistics.median(values), "steps/s") for name, values in rates.items()]
    rows += [Row(f"{name}: failed", None, "steps/s") for name in failed]
    ratio = median_ratio(rates[OURS], rates[PEER]) if {OURS, PEER} <= rates.keys() else None
    rows.append(Row("cgan_jax beside eager PyTorch", ratio, "times", at_least=15))
    return Outcome(rows, {"steps per second": rates}, failed)


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Taken round by round."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def seeds(job: Job) -> Outcome:
    """Many seeds at once, under vmap, beside one seed."""
    n = job.size.seeds
    one = benchmark_parts.training_timer(data_dir=job.data_dir)
    many = benchmark_parts.seeds_timer(n, job.data_dir)
    timers = {"one seed": one, f"{n} seeds": lambda steps: many(n * steps)}
    rates = in_turns(timers, job.size.rounds, job.size.steps)
    alone, together = rates.values()
    rows = [Row(f"{name}, all steps", statistics.median(v), "steps/s") for name, v in rates.items()]
    times = n * median_ratio(alone, together)
    rows.append(Row(f"{n} seeds at once: time of one seed", times, "times", at_most=3))
    return Outcome(rows, {"steps per second": rates})


class Pace(NamedTuple):
    """A preset's steps per second, peak device memory in GiB, and losses `[steps, 2]`."""

    rate: float
    memory: float | None
    losses: np.ndarray


def presets(job: Job) -> Outcome:
    """Each preset's speed and memory, in its own process; and what bfloat16 does to the losses."""
    rows, failed, curves = list[Row](), dict[str, str](), dict[str, np.ndarray]()
    # Earlier than that of the whole part, so that what was measured until then stays.
    deadline = time.perf_counter() + 0.95 * job.timeout
    for name, config in job.size.presets.items():
        try:
            left = max(0.0, deadline - time.perf_counter())
            pace = isolated(pace_of, config, job, timeout=left)
        except RunError as error:
            failed[name] = str(error)
            rows.append(Row(f"{name}: failed", None, "steps/s"))
            continue
        rows.append(Row(name, pace.rate, "steps/s"))
        rows.append(Row(f"{name}, peak memory", pace.memory, "GiB"))
        if name in PRECISIONS:
            curves[name] = pace.losses
    if curves:
        n = min(map(len, curves.values()))
        curves = {name: losses[:n] for name, losses in curves.items()}
        write_curves(curves, job.curves)
        for name, losses in curves.items():
            for loss, mean in zip("DG", losses[-(n // 4) :].mean(axis=0).tolist(), strict=True):
                rows.append(Row(f"{name}, {loss} loss of the last quarter of {n} steps", mean))
    return Outcome(rows, {"curves": str(job.curves) if curves else None}, failed)


def pace_of(config: TrainConfig, job: Job) -> Pace:
    """Train a preset for some seconds.

    On whole batches and not too many of them, so that one program is compiled and an epoch, the
    least that a GPU takes at once, is short. So the memory is without most of the data.
    """
    data = dataset_of(config, job.data_dir)
    n = config.batch_size * min(MOST_BATCHES, len(data) // config.batch_size)
    dataset = Dataset.from_arrays(
        data.images[:n], data.labels[:n], data.class_names, name=data.name
    )
    config, timer = config.for_data(dataset), PaceTimer(job.size.seconds)
    train(GAN.from_config(config), config, dataset, callbacks=[timer], progress=False)
    stats = jax.local_devices()[0].memory_stats()
    memory = stats["peak_bytes_in_use"] / 2**30 if stats else None
    losses = np.concatenate([chunk.losses for chunk in timer.chunks])
    return Pace(timer.steps_per_second(), memory, losses)


def write_curves(curves: Mapping[str, np.ndarray], file: Path) -> None:
    """A row for each step, two columns for each curve."""
    columns = [f"{name} {loss}" for name in curves for loss in report_log.LOSSES]
    with atomic_write(file) as temporary, temporary.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["step", *columns])
        for step, losses in enumerate(np.hstack(list(curves.values())).tolist()):
            writer.writerow([step, *losses])


def samples(job: Job) -> Outcome:
    """The exported program beside the generator, and the time for many samples."""
    generator, file = benchmark_parts.fresh_generator(), job.folder / "generator.zip"
    save_stablehlo(file, generator)
    exported = load_stablehlo(file)
    by_default = largest_difference(generator, exported)
    with jax.default_matmul_precision("highest"):  # as the exported program has it
        in_float32 = largest_difference(generator, exported)
    (images_per_second,) = benchmark_parts.sampling().values()
    rows = [
        Row("exported program beside the generator in float32", in_float32, at_most=1e-5),
        Row("  beside the generator in the device's own precision", by_default),
        Row(f"{N_SAMPLES:,} samples", N_SAMPLES / images_per_second, "s"),
    ]
    return Outcome(rows)


PARTS: Mapping[str, Callable[[Job], Outcome]] = {
    "main": main_job,
    "speed": speed,
    "seeds": seeds,
    "presets": presets,
    "exactness": exactness,
    "samples": samples,
}
