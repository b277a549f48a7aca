"""Make a run folder from the weights of a generator and a discriminator trained in PyTorch.

    python -m experiments.import_torch generator.pt discriminator.pt --workdir runs/imported

Every other command then works on that folder. `experiments.export --format torch` is the way back.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from cgan_jax.checks import check_class_names, one_line, plural
from cgan_jax.config import ModelConfig
from cgan_jax.data import SPECS
from cgan_jax.errors import DataError, RunError
from cgan_jax.interop import (
    batches_tracked,
    config_from_torch,
    discriminator_from_torch,
    generator_from_torch,
    load_state_dict,
)
from cgan_jax.presets import PRESETS
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.lock import run_lock
from experiments.shared.choice import Words
from experiments.shared.command_line import parse, parse_size, run

MODULE = "experiments.import_torch"
REPORT = PRESETS["report"]


@dataclass(frozen=True)
class Flags:
    """Make a run folder from PyTorch weights of the report's two networks, of any sizes.

    Example:
      python -m experiments.import_torch generator.pt discriminator.pt --workdir runs/imported
    """

    generator: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="GENERATOR")]
    """The generator's state dict: .safetensors, .pt or .pth."""
    discriminator: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DISCRIMINATOR")]
    """The discriminator's state dict, likewise."""
    workdir: Path
    """The run folder to make."""
    class_names: Words = ()
    """One name per class. By default Fashion-MNIST's for ten classes of 28x28 grey images, numbers
    for others."""
    channels: int = 1
    """Number of channels of the images: 1 for grey, 3 for colour."""
    img_size: Annotated[str | None, tyro.conf.arg(metavar="INTxINT")] = None
    """Height and width of the images, as 64x48. By default they are square."""
    bn_epsilon: float = ModelConfig.bn_epsilon
    """The networks' BatchNorm epsilon; the report's is 0.8."""


def main() -> None:
    flags = parse(Flags, MODULE)
    gen_weights, disc_weights = map(load_state_dict, (flags.generator, flags.discriminator))
    size = None if flags.img_size is None else parse_size(flags.img_size)
    model = config_from_torch(gen_weights, disc_weights, channels=flags.channels, img_size=size)
    config = replace(REPORT, model=replace(model, bn_epsilon=flags.bn_epsilon))
    height, width, _ = model.image_shape
    names, note = class_names([name for group in flags.class_names for name in group], model)
    if RunFolder.check(flags.workdir, config):
        raise RunError(
            f"{flags.workdir} holds a run already\nexpected a new or empty folder\n"
            "Name another --workdir."
        )

    import jax
    import jax.numpy as jnp

    from cgan_jax.runs.checkpoint import Checkpoints
    from cgan_jax.training.gan import GAN

    gan = GAN.from_config(config)
    gen = generator_from_torch(gen_weights, model)
    disc = discriminator_from_torch(disc_weights, model)
    step = batches_tracked(gen_weights)
    fresh = jax.jit(gan.init)(jax.random.key(0))
    state = fresh.replace(
        step=jnp.int32(step),
        gen=fresh.gen.replace(**gen),
        disc=fresh.disc.replace(**disc),
    )
    with run_lock(flags.workdir):
        folder = RunFolder.start(flags.workdir, config, names)
        with Checkpoints(folder.checkpoints) as checkpoints:
            checkpoints.save(step, state)
    print(
        f"Wrote {flags.workdir}: {model.n_classes} classes, images of {height} by "
        f"{width}, after {step:,} steps. Adam's moments are not in the files: further "
        f"training starts them at zero.{note}"
    )


def class_names(given: list[str], model: ModelConfig) -> tuple[tuple[str, ...], str]:
    """The names of the classes, and a line on the default ones.

    Raises:
        DataError: the number of names differs from the number of classes.
    """
    if given:
        if len(given) != model.n_classes:
            raise DataError(
                f"{plural(len(given), 'class name')} for {model.n_classes} classes\n"
                f"expected {model.n_classes}, one per class of these networks\n"
                "Give them all: --class-names NAME NAME ..."
            )
        return check_class_names(given, MODULE), ""
    names = tuple(map(str, range(model.n_classes)))
    ours, reports = ((m.n_classes, m.img_size, m.channels) for m in (model, REPORT.model))
    if ours == reports:
        names = SPECS[REPORT.dataset].class_names
    note = f"\nThe classes are called {one_line(', '.join(names), 60)}. To give them other names, "
    return names, note + "import into another folder with --class-names NAME NAME ..."


if __name__ == "__main__":
    run(main)
