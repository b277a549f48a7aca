"""How good a trained generator's pictures are: every measure, beside real images'.

    python -m experiments.evaluate runs/fashion_cgan          # some 6 minutes on 2 cores
    python -m experiments.evaluate runs/fashion_cgan --fast   # a look, in half a minute

Writes evaluation.json and pictures into the run's folder, under evaluation/, or evaluation_fast/
and evaluation_best/ with those flags. What is measured stands in cgan_jax.metrics.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from tqdm import tqdm

from cgan_jax.data import SPECS, load
from cgan_jax.errors import ConfigError, RunError
from cgan_jax.files import atomic_write
from cgan_jax.presets import PRESETS
from cgan_jax.runs.folder import RunFolder, runs_in
from cgan_jax.runs.tables import format_figure
from experiments.shared.command_line import parse, run
from experiments.shared.page import write_or_warn

if TYPE_CHECKING:
    from cgan_jax.metrics.evaluation import Evaluation, Told

MODULE = "experiments.evaluate"
DATASET = PRESETS["report"].dataset
HEADLINE = ("gan_test", "fcd", "precision", "recall", "coverage", "cas", "intra_fcd", "kcd")


@dataclass(frozen=True)
class Flags:
    """Measure how good the pictures of trained runs are, beside real images.

    Examples:
      python -m experiments.evaluate runs/fashion_cgan
      python -m experiments.evaluate runs/fashion_cgan --fast     not comparable; half a minute
      python -m experiments.evaluate runs/seed-0 runs/seed-1 runs/seed-2 --out runs/comparison
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders, or folders of run folders. Several are compared."""
    fast: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Few images and one seed: a first look, whose figures compare with no others."""
    cas: bool = True
    """Train a classifier on fakes alone, which takes most of the time."""
    cas_on_real: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Train it on the real images too, in place of the figure that is known of them."""
    best: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Measure the best checkpoint, which --eval-every keeps, in place of the newest."""
    inception_weights: Path | None = None
    """A TorchScript file of Inception, for the FID: inception-2015-12-05.pt, as StyleGAN's. Needs
    the extra `torch`, and takes long. Nothing is ever downloaded."""
    out: Path = Path("runs/comparison")
    """Where the comparison of several runs goes."""
    data_dir: Path | None = None
    """A directory with the data. By default they are looked for, and fetched if need be."""

    def check(self) -> None:
        """Raises ConfigError for flags that do not go together."""
        if self.cas_on_real and (self.fast or not self.cas):
            raise ConfigError(
                "cas_on_real does not go with --fast or --no-cas\n"
                "expected a run whose cas is measured\nOmit one of them."
            )

    def place(self) -> str:
        """Where in a run's folder, such that one kind of evaluation replaces no other."""
        return "evaluation" + "_best" * self.best + "_fast" * self.fast


def main() -> None:
    flags = parse(Flags, MODULE)
    flags.check()
    folders = run_folders(flags.runs, best=flags.best)

    from cgan_jax.metrics.evaluation import FAST, FULL, evaluate, prepare, work
    from cgan_jax.metrics.inception import load_inception
    from cgan_jax.sampling.generator import load_generator
    from experiments.shared.compile_cache import keep_programs

    keep_programs()
    full = replace(FULL, cas=flags.cas, cas_on_real=flags.cas_on_real)
    protocol = FAST if flags.fast else full
    inception = load_inception(flags.inception_weights) if flags.inception_weights else None
    generators = [load_generator(folder.path, best=flags.best) for folder in folders]
    training, test = (load(DATASET, split, flags.data_dir) for split in ("train", "test"))
    found, places = [], []
    with progress(work(protocol, len(folders), len(training))) as told:
        real = prepare(training, test, protocol, inception=inception, told=told)
        for folder, generator in zip(folders, generators, strict=True):
            evaluation = evaluate(generator, real, told=told)
            about = {"run": folder.path.name, "seed": folder.config.seed, "best": flags.best}
            place = folder.path / flags.place()
            write(evaluation, folder.class_names, about, place)
            write_or_warn(folder.path)
            places.append(str(place))
            tqdm.write(f"\n{folder.path}, {generator.step:,} steps\n{table(evaluation)}\n")
            for line in evaluation.warnings:
                tqdm.write(f"WARNING: {line}", file=sys.stderr)
            found.append(evaluation)
    if len(found) > 1:
        compare(found, [folder.path.name for folder in folders], flags.out)
        places.append(str(flags.out))
    print(f"Figures and pictures are in {', '.join(places)}.")


def run_folders(paths: Sequence[Path], *, best: bool) -> list[RunFolder]:
    """The runs in folders, or in folders of such.

    Raises:
        RunError: there is none, one has no checkpoint, or is of another data set.
    """
    found = runs_in(paths)
    if not found:
        raise RunError(
            "there is no run to evaluate\nexpected at least one run folder\n"
            "Name one, as runs/fashion_cgan."
        )
    for folder in found:
        if folder.config.dataset != DATASET or folder.class_names != SPECS[DATASET].class_names:
            raise RunError(
                f"{folder.path} holds a run on {folder.config.dataset}\n"
                f"expected one on {DATASET}, which the reference classifier knows\n"
                "Train others with --eval-every, which measures pixels; or give the functions of "
                "cgan_jax.metrics your own classifier's features."
            )
        place = folder.best if best else folder.checkpoints
        if not place.is_dir():
            raise RunError(
                f"{folder.path} has no {place.name}/ yet\nexpected a checkpoint at least\n"
                f"Name a run after its first save{', with --eval-every' if best else ''}."
            )
    return found


@contextmanager
def progress(total: int) -> "Iterator[Told]":
    """A bar of the images that are gone through, with what is being done."""
    bar = tqdm(
        total=total,
        disable=not sys.stderr.isatty(),
        bar_format="{percentage:3.0f}%|{bar:20}| {remaining} left  {desc}",
        dynamic_ncols=True,
        leave=False,
    )

    def told(what: str, n: int) -> None:
        bar.set_description_str(what, refresh=n == 0)
        bar.update(n)

    with bar:
        yield told


def table(evaluation: "Evaluation") -> str:
    """The measures as text, a line each: fakes, real images, their ratio."""
    from cgan_jax.metrics.evaluation import MEASURES

    stamp = evaluation.stamp
    lines = []
    if stamp["protocol"]["name"] == "fast":
        lines.append("A FAST LOOK: few images, one seed. Do not compare with other figures.")
    lines.append(f"{'measure':<17} {'fakes':>8} {'sd':>8} {'real':>8} {'ratio':>7}")
    for name, found in evaluation.measures.items():
        sd, real = found["sd"], found["real"]
        # The kernel distance of real images is about 0, on either side.
        ratio = found["mean"] / real if real and name != "kcd" else None
        cells = (
            format_figure(found["mean"]),
            format_figure(sd),
            format_figure(real),
            format_figure(ratio),
        )
        lines.append(
            f"{name:<17} {cells[0]:>8} {cells[1]:>8} {cells[2]:>8} {cells[3]:>7}  {MEASURES[name]}"
        )
    n, seeds = stamp["protocol"]["n_images"], stamp["protocol"]["seeds"]
    lines.append(
        f"{n:,} fakes of each seed in {list(seeds)} against {n:,} test images; "
        f"reference classifier {stamp['reference_sha256'][:12]}"
    )
    return "\n".join(lines)


def write(
    evaluation: "Evaluation", names: Sequence[str], about: dict[str, Any], place: Path
) -> None:
    """Put figures and pictures into a folder, in place of an older evaluation's."""
    from cgan_jax.pictures.grids import grid
    from cgan_jax.pictures.plots import plot_confusion, plot_per_class

    matrices = {
        "fakes": evaluation.confusion["fakes"].counts,
        "real test images": evaluation.confusion["real"].counts,
    }
    with atomic_write(place / "confusion.png") as temporary:
        plot_confusion(matrices, names, temporary)
    titles = {
        "gan_test": "taken for the class asked for",
        "intra_fcd": "Frechet distance within the class (lower is better)",
        "diversity": "grey levels between two pictures of the class",
    }
    bars = {title: evaluation.per_class[name] for name, title in titles.items()}
    with atomic_write(place / "per_class.png") as temporary:
        plot_per_class(bars, names, temporary)
    fakes, nearest = evaluation.neighbours
    with atomic_write(place / "nearest.png") as temporary:
        grid(np.concatenate([fakes, nearest], axis=2), names).save(temporary)
    with atomic_write(place / "evaluation.json") as temporary:
        saved = {"about": about} | evaluation.to_dict()
        temporary.write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")


def compare(found: "Sequence[Evaluation]", names: Sequence[str], place: Path) -> None:
    """Print and write the measures of several runs, with mean and standard deviation."""
    from cgan_jax.pictures.plots import plot_comparison

    measures = found[0].measures
    values = {name: [each.measures[name]["mean"] for each in found] for name in measures}
    real = {name: each["real"] for name, each in measures.items() if each["real"] is not None}
    mean = {name: float(np.mean(each)) for name, each in values.items()}
    sd = {name: float(np.std(each, ddof=1)) for name, each in values.items()}
    print("".join([f"{'measure':<17}", *(f" {name[-10:]:>10}" for name in (*names, "mean", "sd"))]))
    for name, each in values.items():
        cells = (*each, mean[name], sd[name])
        print("".join([f"{name:<17}", *(f" {format_figure(cell):>10}" for cell in cells)]))
    shown = {name: values[name] for name in HEADLINE if name in values}
    with atomic_write(place / "comparison.png") as temporary:
        plot_comparison(shown, real, names, temporary)
    with atomic_write(place / "comparison.json") as temporary:
        saved = {"runs": list(names), "stamp": found[0].stamp, "real": real}
        saved |= {"measures": values, "mean": mean, "sd": sd}
        temporary.write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
