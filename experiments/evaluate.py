"""Measure how good a trained generator's images are, beside real images.

    python -m experiments.evaluate runs/fashion_cgan          # some minutes on 2 cores
    python -m experiments.evaluate runs/fashion_cgan --fast   # a first look, in half a minute
    python -m experiments.evaluate runs/photos                # a run of experiments.train

Measures the newest checkpoint and, where --eval-every kept one, the best: a table of best
checkpoints alone would hide a collapse. Writes evaluation.json and plots into evaluation/ and
evaluation_best/ of the run's folder; with --raw and --fast into evaluation_raw/, evaluation_fast/
and the like. The measures are in cgan_jax.metrics. Of data other than Fashion-MNIST, a reference
classifier is trained first, on the run's own training images, and cached.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import tyro
from tqdm import tqdm

from cgan_jax.bars import work_bar
from cgan_jax.errors import ConfigError, RunError
from cgan_jax.files import atomic_write, write_json
from cgan_jax.metrics.measures import MEASURES
from cgan_jax.runs.folder import RunFolder, runs_in
from cgan_jax.runs.tables import format_figure
from experiments.shared.choice import Checkpoint
from experiments.shared.command_line import parse, run
from experiments.shared.evaluation_data import EvalData, Source, source_of
from experiments.shared.output import check_output
from experiments.shared.page import write_or_warn
from experiments.shared.reference import own_reference

if TYPE_CHECKING:
    from cgan_jax.metrics.eval_plan import EvalProtocol
    from cgan_jax.metrics.evaluation import Evaluation, ProgressFn
    from cgan_jax.metrics.inception import Features
    from cgan_jax.sampling.generator import TrainedGenerator

MODULE = "experiments.evaluate"
MOST_CLASSES = 40  # in the plots of single classes
HEADLINE = ("gan_test", "fcd", "precision", "recall", "coverage", "cas", "intra_fcd", "kcd")


@dataclass(frozen=True)
class Flags:
    """Measure how good the images of trained runs are, beside real images.

    Examples:
      python -m experiments.evaluate runs/fashion_cgan
      python -m experiments.evaluate runs/fashion_cgan --fast     not comparable; half a minute
      python -m experiments.evaluate runs/seed-0 runs/seed-1 runs/seed-2 --out runs/comparison
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders, or folders of run folders. Several runs are compared."""
    fast: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A first look at few images of one seed. Its figures compare only with each other."""
    cas: bool = True
    """Train a classifier on fakes alone, which takes most of the time."""
    cas_on_real: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Train it on the real images too, instead of using their known figure."""
    best: bool = True
    """Measure the best checkpoint too, where --eval-every kept one."""
    raw: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Measure the generator as it is trained, even where the run keeps an average of it."""
    inception_weights: Path | None = None
    """A TorchScript file of Inception for the FID, such as StyleGAN's inception-2015-12-05.pt.
    Needs the extra `torch`, and takes long. Nothing is downloaded."""
    out: Path = Path("runs/comparison")
    """Folder for the comparison of several runs."""
    data: str | None = None
    """The data, as for `train`: where they have moved, or of a run that another program trained."""
    data_dir: Path | None = None
    """A directory with the data. By default they are looked for, and downloaded if necessary."""

    def check(self) -> None:
        """Raises ConfigError for flags that exclude each other."""
        if self.cas_on_real and (self.fast or not self.cas):
            raise ConfigError(
                "cas_on_real does not go with --fast or --no-cas\n"
                "expected a run whose cas is measured\nOmit one of them."
            )

    def folder(self, run_folder: RunFolder, best: bool) -> Path:
        """Each kind of evaluation has its own folder in the run's."""
        name = "evaluation" + "_best" * best + "_raw" * self.raw + "_fast" * self.fast
        return run_folder.path / name


class Candidate(NamedTuple):
    """A checkpoint to measure: a run's newest or its best one."""

    run: RunFolder
    generator: "TrainedGenerator"
    best: bool


def main() -> None:
    flags = parse(Flags, MODULE)
    flags.check()
    runs = runs_in(flags.runs)
    if not runs:
        raise RunError(
            "there is no run to evaluate\nexpected at least one run folder\n"
            "Name one, such as runs/fashion_cgan."
        )
    folders = [flags.folder(each, best) for each in runs for best in (False, True)]
    for folder in [*folders, flags.out] if len(runs) > 1 else folders:
        check_output(folder / "evaluation.json", overwrite=True)

    from cgan_jax.metrics.eval_plan import FAST, FULL
    from cgan_jax.metrics.inception import load_inception

    full = replace(FULL, cas=flags.cas, cas_on_real=flags.cas_on_real)
    protocol = FAST if flags.fast else full
    sources: dict[Source, list[RunFolder]] = {}
    for each in runs:
        sources.setdefault(source_of(each, flags.data, flags.data_dir), []).append(each)
    inception = load_inception(flags.inception_weights) if flags.inception_weights else None
    groups = [
        (source, [candidate for each in group for candidate in checkpoints(each, flags)])
        for source, group in sources.items()
    ]
    out = flags.out if len(runs) > 1 and len(groups) == 1 else None
    for source, candidates in groups:
        data = source.load(*sources[source])
        evaluations = evaluate(data, candidates, protocol, inception, flags)
        summarize(candidates, evaluations, out)
    folders = [flags.folder(each.run, each.best) for _, group in groups for each in group]
    folders += [out] if out else []
    if len(groups) > 1:
        print(
            "Runs on other images, or with other images held out, are not compared; give the same "
            "--holdout-seed in training."
        )
    print(f"Figures and plots are in {', '.join(map(str, folders))}.")


def evaluate(
    data: EvalData,
    candidates: Sequence[Candidate],
    protocol: "EvalProtocol",
    inception: "Features | None",
    flags: Flags,
) -> "list[Evaluation]":
    """Measure checkpoints of runs on one data set, and publish each."""
    from cgan_jax.metrics.eval_plan import plan_evaluation
    from cgan_jax.metrics.evaluation import Evaluator
    from cgan_jax.metrics.reference import is_fashion_mnist

    training, test, about_test = data
    is_known = is_fashion_mnist(training)
    plan = plan_evaluation(protocol, training, test, known=is_known)
    reference = None if is_known else own_reference(training)
    n_images = plan.count_images(len(candidates), len(training), fid=inception is not None)
    evaluations = []
    with progress_bar(n_images) as on_progress:
        evaluator = Evaluator(
            training,
            test,
            protocol,
            reference=reference,
            inception=inception,
            on_progress=on_progress,
            about_test=about_test,
        )
        for candidate in candidates:
            evaluations.append(evaluator.evaluate(candidate.generator))
            folder = flags.folder(candidate.run, candidate.best)
            publish(evaluations[-1], candidate, folder, raw=flags.raw)
    return evaluations


def checkpoints(run_folder: RunFolder, flags: Flags) -> list[Candidate]:
    """A run's newest checkpoint, and its best one if that is another."""
    last = Checkpoint(raw=flags.raw).load(run_folder)
    candidates = [Candidate(run_folder, last, best=False)]
    if flags.best and run_folder.best.exists():
        best = Checkpoint(best=True, raw=flags.raw).load(run_folder)
        if best.step == last.step:
            print(f"{run_folder.path}: the best checkpoint is the last one.")
        else:
            candidates.append(Candidate(run_folder, best, best=True))
    return candidates


@contextmanager
def progress_bar(total: int) -> "Iterator[ProgressFn]":
    """A bar of the processed images, with the stage of the work."""
    with work_bar("{percentage:3.0f}%|{bar:20}| {remaining} left  {desc}", total=total) as bar:

        def on_progress(stage: str, n: int) -> None:
            bar.set_description_str(stage, refresh=n == 0)
            bar.update(n)

        yield on_progress


def publish(evaluation: "Evaluation", candidate: Candidate, folder: Path, *, raw: bool) -> None:
    """Print an evaluation, and then write it and the run's page."""
    run_folder, which = candidate.run, "best" if candidate.best else "last"
    what = f"{run_folder.path}, {which} checkpoint, {evaluation.stamp['step']:,} steps"
    tqdm.write(f"\n{what}\n{table(evaluation)}\n")
    for line in evaluation.warnings:
        tqdm.write(f"WARNING: {line}", file=sys.stderr)
    about = {"run": run_folder.path.name, "seed": run_folder.config.seed}
    about |= {"best": candidate.best, "raw": raw}
    write(evaluation, run_folder.class_names, about, folder)
    write_or_warn(run_folder.path)


def table(evaluation: "Evaluation") -> str:
    """The measures as text, one line each: fakes, real images, their ratio."""
    stamp = evaluation.stamp
    protocol = stamp["protocol"]
    row = "{:<17} {:<9} {:>8} {:>8} {:>8} {:>7}  {}"
    lines = [row.format("measure", "better", "fakes", "sd", "real", "ratio", "").rstrip()]
    if protocol["name"] == "fast":
        lines.insert(0, "A FAST LOOK: few images, one seed. Do not compare with other figures.")
    for name, figures in evaluation.measures.items():
        mean, sd, real = (figures[key] for key in ("mean", "sd", "real"))
        # The kernel distance of real images is about 0, of either sign.
        ratio = mean / real if real and name != "kcd" else None
        text, better = MEASURES[name]
        lines.append(row.format(name, better, *map(format_figure, (mean, sd, real, ratio)), text))
    n, seeds = protocol["n_images"], list(protocol["seeds"])
    if adapted := stamp.get("adapted"):
        lines.append(
            f"Adapted to these data, so compare with their figures alone: {'; '.join(adapted)}."
        )
    lines += [
        f"{n:,} fakes of each seed in {seeds} against {n:,} test images; "
        f"reference classifier {stamp['reference_sha256'][:12]}.",
        "real: test images or, compared with them, training images, which the classifier knows.",
    ]
    if about := stamp.get("test"):
        lines.append(f"Test images: {about}.")
    return "\n".join(lines)


def write(
    evaluation: "Evaluation", class_names: Sequence[str], about: dict[str, Any], folder: Path
) -> None:
    """Write figures and plots into a folder, replacing those of an older evaluation."""
    from cgan_jax.pictures.grids import grid
    from cgan_jax.pictures.plots import plot_confusion, plot_per_class

    matrices = {
        "fakes": evaluation.confusion["fakes"].counts,
        "real test images": evaluation.confusion["real"].counts,
    }
    with atomic_write(folder / "confusion.png") as temporary:
        plot_confusion(matrices, class_names, temporary)
    of_classes = {
        name: {who: np.array(values) for who, values in rows.items()}
        for name, rows in evaluation.per_class.items()
    }
    # All classes, or those that are recognised least; unknown is last.
    shown = np.sort(np.argsort(of_classes["gan_test"]["fakes"], kind="stable")[:MOST_CLASSES])
    names = [class_names[label] for label in shown]
    titles = {
        "gan_test": "share classified as the requested class (higher is better)",
        "intra_fcd": "Frechet distance within the class (lower is better)",
        "diversity": "grey levels between two images of the class (near real is better)",
    }
    if len(names) < len(class_names):
        titles["gan_test"] += f"; the {len(names)} least recognised of {len(class_names)} classes"
    bars = {
        title: {who: values[shown].tolist() for who, values in of_classes[name].items()}
        for name, title in titles.items()
    }
    with atomic_write(folder / "per_class.png") as temporary:
        plot_per_class(bars, names, temporary)
    fakes, nearest = evaluation.neighbours[:, :, shown]
    with atomic_write(folder / "nearest.png") as temporary:
        grid(np.concatenate([fakes, nearest], axis=2), names).save(temporary)
    write_json(folder / "evaluation.json", {"about": about} | evaluation.to_dict())


def summarize(
    candidates: Sequence[Candidate], evaluations: "Sequence[Evaluation]", out: Path | None
) -> None:
    """Print the last and the best of each run side by side; compare the last ones of several.

    Without `out` they are not compared: other runs are measured against other images.
    """
    rows = list(zip(candidates, evaluations, strict=True))
    row = "{:<17} {:<9} {:>10} {:>10}"
    for (_, last), (candidate, best) in pairwise(rows):
        if candidate.best:
            print(f"\n{candidate.run.path}\n{row.format('measure', 'better', 'last', 'best')}")
            print(row.format("steps", "", *(f"{each.stamp['step']:,}" for each in (last, best))))
            common = [name for name in last.measures if name in best.measures]
            for name, direction in ((name, MEASURES[name].better) for name in common):
                means = (each.measures[name]["mean"] for each in (last, best))
                print(row.format(name, direction, *map(format_figure, means)))
    last_ones = [(each.run.path.name, evaluation) for each, evaluation in rows if not each.best]
    if out and len(last_ones) > 1:
        compare([evaluation for _, evaluation in last_ones], [name for name, _ in last_ones], out)


def compare(evaluations: "Sequence[Evaluation]", names: Sequence[str], folder: Path) -> None:
    """Print and write the measures of several runs, with mean and standard deviation."""
    from cgan_jax.pictures.plots import plot_comparison

    first, *others = (each.measures for each in evaluations)
    measures = {name: row for name, row in first.items() if all(name in o for o in others)}
    values = {name: [each.measures[name]["mean"] for each in evaluations] for name in measures}
    real = {name: each["real"] for name, each in measures.items() if each["real"] is not None}
    mean = {name: float(np.mean(row)) for name, row in values.items()}
    sd = {name: float(np.std(row, ddof=1)) for name, row in values.items()}
    widths = [max(10, len(name)) for name in (*names, "mean", "sd")]
    row = "{:<17} {:<9}" + "".join(f" {{:>{width}}}" for width in widths)
    print(row.format("measure", "better", *names, "mean", "sd"))
    for name in values:
        figures = (*values[name], mean[name], sd[name])
        print(row.format(name, MEASURES[name].better, *map(format_figure, figures)))
    titles = {name: f"{name} ({MEASURES[name].better} is better)" for name in HEADLINE}
    plotted = {title: values[name] for name, title in titles.items() if name in values}
    lines = {title: real[name] for name, title in titles.items() if name in real}
    with atomic_write(folder / "comparison.png") as temporary:
        plot_comparison(plotted, lines, names, temporary)
    contents = {"runs": list(names), "stamp": evaluations[0].stamp, "real": real}
    contents |= {"measures": values, "mean": mean, "sd": sd}
    write_json(folder / "comparison.json", contents)


if __name__ == "__main__":
    run(main)
