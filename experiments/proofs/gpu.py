"""What this library does on a GPU: one script, one table, one JSON file, for minutes on a GPU.

    python -m experiments.proofs.gpu                           # needs a GPU and the extra `torch`
    python -m experiments.proofs.gpu --parts main speed        # other parts in the file stay
    python -m experiments.proofs.gpu --tiny --json tiny.json   # a rehearsal, on a CPU or a GPU

Sized for less than eight minutes on an H100. Each part runs in a process of its own, for a limited
time, and its figures are written at once: a part that fails takes none of the others with it. What
is measured is in gpu_parts.py and gpu_runs.py.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from cgan_jax.checks import check_int_field
from cgan_jax.data import load
from cgan_jax.errors import ConfigError, RunError
from cgan_jax.files import write_errors
from cgan_jax.presets import PRESETS
from experiments.proofs import gpu_job, gpu_table
from experiments.proofs.gpu_table import HEADER, Outcome
from experiments.proofs.processes import isolated
from experiments.shared.command_line import check_each_once, fail, parse, run
from experiments.shared.output import check_output

MODULE = "experiments.proofs.gpu"

Part = Literal["main", "speed", "seeds", "presets", "exactness", "samples"]
NEED_TORCH: tuple[Part, ...] = ("speed", "exactness")


@dataclass(frozen=True)
class Flags:
    """Measure what this library does on a GPU, print a table and write JSON.

    Examples:
      python -m experiments.proofs.gpu
      python -m experiments.proofs.gpu --parts main speed --data-dir data
      python -m experiments.proofs.gpu --tiny --json tiny.json
    """

    parts: tuple[Part, ...] = get_args(Part)
    """main: the main job beside the report, killed and resumed, and timed; speed: steps per second
    beside PyTorch's on the same device; seeds: many at once, under vmap; presets: speed, memory and
    bfloat16; exactness: float64 beside PyTorch, and repeated bits; samples: the exported
    program."""
    tiny: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A rehearsal of the same parts on any device: small networks, few steps and few seeds."""
    data_dir: Path | None = None
    """A directory with the data. By default they are looked for, and fetched if need be."""
    json: Path = Path("runs/gpu.json")
    """The file for the figures. What it holds of other parts stays. The loss curves are written
    beside it."""
    workdir: Path = Path("runs/gpu")
    """Where each part has a new folder for its runs, which stay there."""
    timeout: int = 240
    """Seconds after which a part is ended."""

    def check(self) -> None:
        """Raises ConfigError for a number out of range, no part or one twice, or no PyTorch."""
        check_int_field(self, "timeout", 1, 86_400)
        check_each_once("parts", self.parts, "Omit it for all parts.")
        needs = [part for part in self.parts if part in NEED_TORCH]
        if needs and not find_spec("torch"):
            raise ConfigError(
                f"PyTorch is not installed\nexpected it for {' and '.join(needs)}\n"
                "Install it with pip install -e '.[torch]', or name other --parts."
            )


def main() -> None:
    flags = parse(Flags, MODULE)
    flags.check()
    check_output(flags.json, overwrite=True)
    results = gpu_table.read(flags.json, tiny=flags.tiny)
    from experiments.proofs import gpu_parts  # imports JAX, which takes no device here

    # Its devices are looked at in another process, so that none is taken in this one.
    machine = isolated(gpu_parts.machine, timeout=flags.timeout)
    if not flags.tiny and machine["platform"] != "gpu":
        raise ConfigError(
            f"there is no GPU: JAX computes on {machine['device']}\nexpected an NVIDIA GPU, and "
            "JAX with the extra cuda12 or cuda13\nUse such a machine, or rehearse with --tiny."
        )
    load(PRESETS["report"].dataset, data_dir=flags.data_dir)  # missing data end no part halfway
    print(f"{machine['device']}, driver {machine['driver'] or 'unknown'}, jax {machine['jax']}")
    if flags.tiny:
        print("A rehearsal: its figures mean nothing.")
    print(HEADER, flush=True)
    failed = run_parts(flags, results, machine)
    print(f"Written to {flags.json}.")
    if failed:
        fail(f"{', '.join(failed)} failed\nSee {flags.json}; run the same with --parts", code=1)


def run_parts(flags: Flags, results: dict[str, Any], machine: Mapping[str, Any]) -> list[Part]:
    """Run the parts, and write and print each one's figures; returns those that failed."""
    from experiments.proofs import gpu_parts

    failed: list[Part] = []
    began = time.perf_counter()
    for part in flags.parts:
        job = gpu_job.Job(
            size=gpu_job.TINY if flags.tiny else gpu_job.FULL,
            on_gpu=machine["platform"] == "gpu",
            data_dir=flags.data_dir.absolute() if flags.data_dir else None,
            folder=new_folder(flags.workdir, part),
            curves=flags.json.with_name(f"{flags.json.stem}_curves.csv").absolute(),
            timeout=flags.timeout,
        )
        outcome, problem, seconds = attempt(gpu_parts.run_part, part, job, timeout=flags.timeout)
        results[part] = {"machine": machine, "seconds": round(seconds, 1), "failed": problem}
        results[part] |= outcome.to_dict()
        gpu_table.write(flags.json, results, tiny=flags.tiny)
        print(f"{part}, {seconds:.0f} s" + (f": FAILED, {problem}" if problem else ""))
        print(*(f"  {row}" for row in outcome.rows), sep="\n", flush=True)
        failed += [part] if problem else []
    print(f"{time.perf_counter() - began:.0f} s in all")
    return failed


def attempt(
    work: Callable[..., Outcome], *args: Any, timeout: float
) -> tuple[Outcome, str | None, float]:
    """What some work has measured in a process of its own, what failed, and its seconds."""
    began, outcome, problem = time.perf_counter(), Outcome(()), None
    try:
        outcome = isolated(work, *args, timeout=timeout)
        problem = "; ".join(f"{what}: {why}" for what, why in outcome.failed.items()) or None
    except RunError as error:
        problem = str(error)
    return outcome, problem, time.perf_counter() - began


def new_folder(workdir: Path, part: Part) -> Path:
    """A new folder for a part's runs.

    Raises:
        RunError: it cannot be made.
    """
    with write_errors(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{part}-", dir=workdir)).absolute()


if __name__ == "__main__":
    run(main)
