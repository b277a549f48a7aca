"""A trained generator as a file for other programs, read back and compared first.

    python -m experiments.export runs/fashion_cgan --format onnx --out generator.onnx

The formats are in cgan_jax/interop.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from cgan_jax.errors import ConfigError
from cgan_jax.files import atomic_write
from cgan_jax.model_config import BaseModelConfig, as_report_model
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.restore import restore_run
from experiments.shared.choice import NEWEST, Checkpoint
from experiments.shared.command_line import fail, parse, run
from experiments.shared.output import check_output

if TYPE_CHECKING:
    from cgan_jax.interop import ExportedGenerator
    from cgan_jax.sampling.generator import TrainedGenerator

MODULE = "experiments.export"
Format = Literal["stablehlo", "onnx", "safetensors", "torch"]
SUFFIXES: dict[Format, tuple[str, ...]] = {
    "stablehlo": (".zip",),
    "onnx": (".onnx",),
    "safetensors": (".safetensors",),
    "torch": (".safetensors", ".pt", ".pth"),
}


@dataclass(frozen=True)
class Flags:
    """Write a run's generator as a file for other programs, and compare its images with JAX's.

    Examples:
      python -m experiments.export runs/fashion_cgan --format stablehlo --out generator.zip
      python -m experiments.export runs/fashion_cgan --format onnx --out generator.onnx
      python -m experiments.export runs/fashion_cgan --format safetensors --out weights.safetensors
      python -m experiments.export runs/fashion_cgan --format torch --out generator.pt
    """

    run: Annotated[Path, tyro.conf.Positional]
    """A run folder."""
    format: Format
    """stablehlo: a program for CPU, GPU and TPU that needs only JAX and flatbuffers (.zip); onnx: a
    graph for onnxruntime and others, needs the extra `onnx` (.onnx); safetensors: arrays by name;
    torch: a state dict (.safetensors; or .pt, which needs the extra `torch`)."""
    out: Path
    """The file to write."""
    discriminator: Path | None = None
    """With --format torch: write the discriminator's state dict too, to this file."""
    tolerance: float = 1e-5
    """Largest difference from JAX: images are in [-1, 1], a grey level is 8e-3."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace a file that exists."""
    checkpoint: Checkpoint = NEWEST

    def check(self) -> None:
        """Raises an error for what the library does not look at."""
        self.checkpoint.check()
        if self.discriminator is not None and self.format != "torch":
            raise ConfigError(
                "discriminator goes with --format torch alone\n"
                "expected a generator, as other formats have\nOmit it."
            )
        if self.discriminator == self.out:
            raise ConfigError(f"out and discriminator are both {self.out}\nGive two names.")
        suffixes = SUFFIXES[self.format]
        for file in filter(None, (self.out, self.discriminator)):
            if file.suffix.lower() not in suffixes:
                raise ConfigError(
                    f"{file} does not name a file of the format {self.format}\n"
                    f"expected one that ends in {' or '.join(suffixes)}\nName another."
                )
            check_output(file, self.overwrite)


def main() -> None:
    flags = parse(Flags, MODULE)
    flags.check()
    folder = RunFolder.open(flags.run)
    if flags.format == "onnx":
        from cgan_jax.interop.onnx_graph import packages

        packages()  # says what is not installed before a checkpoint is read

    from cgan_jax.interop import largest_difference

    if flags.format == "torch":
        as_report_model(folder.config.model)  # the one kind that PyTorch-GAN has
    generator = flags.checkpoint.load(folder)
    with atomic_write(flags.out) as file:
        exported = write_generator(file, flags.format, generator, folder.config.model)
        difference = largest_difference(generator, exported)
        check_difference(flags.out, difference, flags.tolerance)
    print_summary(flags.out, generator.step, difference)
    if flags.discriminator is not None:
        with atomic_write(flags.discriminator) as file:
            difference = write_discriminator(file, generator, folder, flags.checkpoint.best)
            check_difference(flags.discriminator, difference, flags.tolerance)
        print_summary(flags.discriminator, generator.step, difference)


def write_generator(
    file: Path, what: Format, generator: "TrainedGenerator", model: BaseModelConfig
) -> "ExportedGenerator":
    """Write a generator in this format, and read it back."""
    from cgan_jax import interop

    match what:
        case "stablehlo":
            interop.save_stablehlo(file, generator)
            return interop.load_stablehlo(file)
        case "onnx":
            interop.save_onnx(file, generator)
            return interop.load_onnx(file)
        case "safetensors":
            interop.save_safetensors(file, generator)
            return interop.as_exported(interop.load_safetensors(file))
        case "torch":
            report = as_report_model(model)
            weights = interop.generator_to_torch(generator.variables, report, generator.step)
            interop.save_state_dict(file, weights, interop.metadata(generator))
            back = interop.generator_from_torch(interop.load_state_dict(file), report)
            return interop.as_exported(replace(generator, variables=back))


def write_discriminator(
    file: Path, generator: "TrainedGenerator", folder: RunFolder, best: bool
) -> float:
    """Write the state dict of this generator's discriminator, and read it back.

    Returns:
        the largest difference between their scores.
    """
    import jax
    import numpy as np

    from cgan_jax import interop

    gan, state = restore_run(folder, step=generator.step, best=best)
    variables, model = state.disc.variables, as_report_model(folder.config.model)
    table = interop.metadata(generator)
    del table["latent_dim"], table["generator"]  # the rest holds for both
    interop.save_state_dict(file, interop.discriminator_to_torch(variables, model), table)
    back = interop.discriminator_from_torch(interop.load_state_dict(file), model)
    shape = (64, *model.image_shape)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    labels = np.arange(64) % model.n_classes
    score = jax.jit(partial(gan.discriminator.apply, train=False))
    return float(abs(score(variables, images, labels) - score(back, images, labels)).max())


def check_difference(out: Path, difference: float, tolerance: float) -> None:
    """End the command with code 1 if what was read back is too far from JAX, or not a number."""
    if not difference <= tolerance:
        fail(
            f"{out} was not written: read back, it differs from JAX by {difference:.1e}\n"
            f"expected at most {tolerance:.1e}\n"
            "Give a larger --tolerance if that can be rounding; otherwise report it.",
            code=1,
        )


def print_summary(out: Path, step: int, difference: float) -> None:
    print(
        f"{out}: {out.stat().st_size / 1e3:,.0f} kB, after {step:,} steps. "
        f"Read back, it differs from JAX by at most {difference:.1e}."
    )


if __name__ == "__main__":
    run(main)
