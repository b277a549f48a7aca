"""Write a run's two networks as PyTorch state dicts that load with `strict=True`.

    python -m experiments.export_torch runs/fashion_cgan --out weights

`experiments.torch_cgan` has modules that take them; `experiments.import_torch` goes the other way.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cgan_jax.errors import RunError
from cgan_jax.interop import discriminator_to_torch, generator_to_torch, save_state_dict
from cgan_jax.run_folder import RunFolder
from experiments.command_line import parse, run

MODULE = "experiments.export_torch"


@dataclass(frozen=True)
class Flags:
    """Write a run's two networks as PyTorch state dicts: generator.* and discriminator.*.

    Example:
      python -m experiments.export_torch runs/fashion_cgan --out weights --format pt
    """

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder."""
    out: Path = Path("weights")
    """Where to write the two files; they must not be there yet."""
    format: Literal["safetensors", "pt"] = "safetensors"
    """pt needs PyTorch (extra `torch`)."""


def main() -> None:
    flags = parse(Flags, MODULE)
    folder = RunFolder.open(flags.run)
    files = [flags.out / f"{name}.{flags.format}" for name in ("generator", "discriminator")]
    for file in files:
        if file.exists():
            raise RunError(f"{file} is there already\nexpected no such file\nName another --out.")

    (_, state), model = folder.restore(), folder.config.model
    steps = int(state.step)
    try:
        flags.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"{flags.out} cannot be made: {error.strerror}\n"
            "expected a folder that you may write to\nName another --out."
        ) from error
    save_state_dict(files[0], generator_to_torch(state.gen.variables, model, steps=steps))
    save_state_dict(files[1], discriminator_to_torch({"params": state.disc.params}, model))
    print(f"Wrote {files[0]} and {files[1]}, trained for {steps:,} steps.")


if __name__ == "__main__":
    run(main)
