"""How much gpu.py measures, in earnest and in a rehearsal, and what each part is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from cgan_jax.config import ResidualConfig, TrainConfig
from cgan_jax.data import Dataset, load
from cgan_jax.presets import PRESETS
from experiments.proofs import tiny

REPORT = PRESETS["report"]
WIDE = "residual_wide"
PRECISIONS = (f"{WIDE}, bfloat16", f"{WIDE}, float32")


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        epochs: of the timed main job.
        short_epochs: of the main job that is killed half-way, and of those that are repeated.
        settings: flags of the main job.
        steps: per turn of a stopwatch.
        rounds: turns of each.
        seeds: at once.
        seconds: about how long each preset is timed.
        presets: configurations by name.
        float64: what is trained beside PyTorch.
        float64_steps: of that.
    """

    epochs: int
    short_epochs: int
    settings: Sequence[str]
    steps: int
    rounds: int
    seeds: int
    seconds: float
    presets: Mapping[str, TrainConfig]
    float64: TrainConfig
    float64_steps: int


def _presets() -> dict[str, TrainConfig]:
    """All presets, the wide one in both precisions."""
    configs = dict(PRESETS)
    wide = configs.pop(WIDE)
    assert isinstance(wide.model, ResidualConfig)
    in_float32 = replace(wide, model=replace(wide.model, precision="float32"))
    return configs | dict(zip(PRECISIONS, (wide, in_float32), strict=True))


FULL = Size(
    epochs=200,
    short_epochs=6,
    settings=(),
    steps=468,
    rounds=5,
    seeds=16,
    seconds=3.0,
    presets=_presets(),
    float64=REPORT,
    float64_steps=200,
)
TINY = Size(
    epochs=2,
    short_epochs=3,
    settings=("--batch-size", "3000", "--generator-widths", "8", "--discriminator-widths", "8"),
    steps=4,
    rounds=1,
    seeds=2,
    seconds=0.1,
    presets={name: tiny.shrink(_presets()[name]) for name in PRECISIONS},
    float64=tiny.CONFIG,
    float64_steps=2,
)


class Job(NamedTuple):
    """What a part has to do, and where.

    Attributes:
        size: how much.
        on_gpu: whether JAX's device is a GPU.
        data_dir: a directory with the data, or None.
        folder: the part's own, empty.
        curves: the file for the loss curves.
        timeout: seconds after which the part is ended.
    """

    size: Size
    on_gpu: bool
    data_dir: Path | None
    folder: Path
    curves: Path
    timeout: float


def dataset_of(config: TrainConfig, data_dir: Path | None) -> Dataset:
    """The training images that a configuration names."""
    return tiny.dataset() if config.dataset == "tiny" else load(config.dataset, data_dir=data_dir)
