"""What each recipe gives, and in how many minutes: train them, evaluate them, make one table.

    python -m experiments.proofs.recipes                                   # hours; it resumes
    python -m experiments.proofs.recipes --recipes relativistic_mlp residual_short  # under an hour
    python -m experiments.proofs.recipes --recipes residual --seeds 1 2    # more seeds

The runs are those of `experiments.fashion_cgan`, each with `--eval-every` for its curve, and their
last checkpoints are measured as by `experiments.evaluate`. Table and pictures show everything that
the folder holds so far. Minutes are steps divided by the pace, which is measured in turns before
training begins, so that other work beside a long run does not count.
"""

import contextlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, get_args

import tyro

from cgan_jax.bars import duration
from cgan_jax.checks import Range
from cgan_jax.config import TrainConfig
from cgan_jax.data import SPECS, Dataset, load
from cgan_jax.errors import RunError
from cgan_jax.files import write_json
from cgan_jax.presets import PRESETS
from cgan_jax.runs.folder import RunFolder
from experiments import evaluate, fashion_cgan
from experiments.proofs import recipes_table as results
from experiments.proofs.benchmark_recipes import steps_per_turn
from experiments.proofs.processes import in_own_process
from experiments.shared.choice import NEWEST
from experiments.shared.command_line import check_each_once, parse, run
from experiments.shared.output import check_output
from experiments.shared.training_flags import Job, parse_job

MODULE = "experiments.proofs.recipes"
SECONDS = 8.0  # about how long a turn lasts when the pace is measured
DATASET = PRESETS["report"].dataset
N_IMAGES = SPECS[DATASET].splits["train"].shape[0]
CURVE_POINTS = 20  # evaluations in the course of a run, or one per epoch

Name = Literal[
    "report", "report_average", "relativistic_mlp", "residual_short", "residual", "projection"
]


class Recipe(NamedTuple):
    """A run of `experiments.fashion_cgan`.

    Attributes:
        epochs: of training.
        words: its other flags.
    """

    epochs: int
    words: tuple[str, ...]


def of_preset(name: str) -> Recipe:
    return Recipe(PRESETS[name].epochs, ("--preset", name))


RECIPES: Mapping[str, Recipe] = {
    "report": of_preset("report"),
    "report_average": Recipe(50, ("--average",)),
    "relativistic_mlp": of_preset("relativistic_mlp"),
    "residual_short": Recipe(10, ("--preset", "residual")),
    "residual": of_preset("residual"),
    "projection": of_preset("projection"),
}


@dataclass(frozen=True)
class Flags:
    """Train recipes, evaluate them, and make one table, one plot and one picture.

    Run it again to resume, or to add recipes and seeds.

    Examples:
      python -m experiments.proofs.recipes
      python -m experiments.proofs.recipes --recipes relativistic_mlp residual_short
      python -m experiments.proofs.recipes --recipes residual --seeds 0 1 2
    """

    recipes: tuple[Name, ...] = get_args(Name)
    """Which recipes. residual_short is residual for 10 epochs, with a cooldown of its own."""
    seeds: tuple[int, ...] = (0,)
    """Of training: one run of each recipe for each of them."""
    workdir: Path = Path("runs/recipes")
    """Where the run folders, the figures, the table and the pictures are."""
    rounds: Annotated[int, Range(1, 1000)] = 5
    """How many turns each recipe gets when its pace is measured."""
    fast: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A rehearsal, in workdir/fast: one epoch of each, and a first look at few images."""

    def check(self) -> None:
        """Raises ConfigError for no recipe or seed, or the same one twice."""
        for name in ("recipes", "seeds"):
            check_each_once(name, getattr(self, name), "Omit it for the default.")

    @property
    def folder(self) -> Path:
        """A rehearsal has its own, since its figures do not compare with others."""
        return self.workdir / "fast" if self.fast else self.workdir

    def stages(self) -> "list[Stage]":
        """The chosen recipes with each seed."""
        names = sorted(self.recipes, key=list(RECIPES).index)
        return [self.stage(name, seed) for name in names for seed in self.seeds]

    def stage(self, name: str, seed: int) -> "Stage":
        """A recipe with a seed."""
        recipe, path = RECIPES[name], self.folder / f"{name}_seed_{seed}"
        epochs = 1 if self.fast else recipe.epochs
        words = [*recipe.words, "--seed", seed, "--epochs", epochs, "--workdir", path]
        words += ["--eval-every", max(1, epochs // CURVE_POINTS)]
        return Stage(name, seed, path, tuple(map(str, words)))


class Stage(NamedTuple):
    """A recipe's run with one seed.

    Attributes:
        name: the recipe's.
        seed: of training.
        path: the run's folder.
        words: the flags of `experiments.fashion_cgan` that train it, or resume it.
    """

    name: str
    seed: int
    path: Path
    words: tuple[str, ...]

    @property
    def figures(self) -> Path:
        """The file with what was measured of it."""
        return self.path.parent / f"{self.name}_seed_{self.seed}.json"

    def job(self) -> Job[fashion_cgan.Flags]:
        """What trains it, or resumes it.

        Raises:
            RunError: the folder holds a run of other settings, or one of more epochs.
        """
        parse_words = partial(parse_job, fashion_cgan.Flags, fashion_cgan.MODULE)
        fresh = parse_words([*self.words, "--no-resume"])  # not by the settings of the folder
        expected = fresh.config.with_schedule_steps(N_IMAGES)
        saved = RunFolder.check(self.path, expected)
        if saved and saved.config.epochs > expected.epochs:
            raise RunError(
                f"{self.path} holds a run of {saved.config.epochs} epochs\n"
                f"expected one of at most {expected.epochs}, to measure {self.name}\n"
                "Move it away, or name the other recipes with --recipes."
            )
        return parse_words(self.words)


def main() -> None:
    flags = parse(Flags, MODULE)
    flags.check()
    check_output(flags.folder / results.TABLE, overwrite=True)
    rows = results.read_figures(flags.folder, list(RECIPES))
    measured = [flags.stage(row.recipe, row.seed) for row in rows]
    every = [(stage, stage.job()) for stage in dict.fromkeys([*measured, *flags.stages()])]
    configs = {stage.name: job.config for stage, job in every}
    jobs = [(stage, job) for stage, job in every if stage not in measured]
    pace = results.read_pace(flags.folder)
    if jobs or not configs.keys() <= pace.keys():
        pace = measure_pace(configs, flags.rounds)
        results.write_pace(pace, flags.folder)
    dataset = load(DATASET)
    if jobs:
        print(plan(jobs, len(dataset), pace), flush=True)
        train_and_evaluate(jobs, dataset, flags)
    results.publish(results.read_figures(flags.folder, list(RECIPES)), dataset, pace)


def measure_pace(configs: Mapping[str, TrainConfig], rounds: int) -> dict[str, float]:
    """Median steps per second of each, in turns, each in a process of its own.

    Those that differ in their length and seed alone share one measurement.
    """
    from experiments.proofs.benchmark_parts import training_timer

    alike = {
        name: replace(config, epochs=1, seed=0, schedule_steps=None).with_schedule_steps(N_IMAGES)
        for name, config in configs.items()
    }
    print(f"Measuring the pace of {', '.join(configs)}.", flush=True)
    rates: dict[TrainConfig, list[float]] = {config: [] for config in alike.values()}
    with contextlib.ExitStack() as stack:
        sides = {
            config: stack.enter_context(in_own_process(training_timer, config)) for config in rates
        }
        steps = {
            config: steps_per_turn([side], config.penalty.every, SECONDS)
            for config, side in sides.items()
        }
        for _ in range(rounds):
            for config, side in sides.items():
                rates[config].append(side(steps[config]))
    return {name: statistics.median(rates[config]) for name, config in alike.items()}


def plan(
    jobs: Sequence[tuple[Stage, Job[fashion_cgan.Flags]]], n_images: int, pace: Mapping[str, float]
) -> str:
    """What is left to train, and how long it takes."""
    from cgan_jax.data.sources import steps_per_epoch

    lines, total = [], 0.0
    for stage, job in jobs:
        last = job.config.epochs * steps_per_epoch(n_images, job.config.images_per_step)
        first = RunFolder(stage.path, job.config, ()).steps_saved()
        seconds = (last - first) / pace[stage.name]
        lines.append(
            f"{stage.name}, seed {stage.seed}: {last - first:,} steps, {duration(seconds)}"
        )
        total += seconds
    lines.append(f"{duration(total)} of training in all, and some minutes for each evaluation.")
    return "\n".join(lines)


def train_and_evaluate(
    jobs: Sequence[tuple[Stage, Job[fashion_cgan.Flags]]], dataset: Dataset, flags: Flags
) -> None:
    """Train each run to its end and write its figures; a signal stops and saves, as in a run."""
    from cgan_jax.metrics.eval_plan import FAST, FULL, plan_evaluation
    from cgan_jax.metrics.evaluation import Evaluator

    protocol = FAST if flags.fast else FULL
    test = load(DATASET, "test")
    plan = plan_evaluation(protocol, dataset, test, known=True)
    n_real, n_first = (plan.count_images(n, len(dataset)) for n in (0, 1))
    evaluator = None  # one for all runs, since the real images take as long as a run's
    for stage, job in jobs:
        job.train(job.config.with_schedule_steps(len(dataset)), dataset, stage.path)
        n_images = n_first - n_real if evaluator else n_first
        with evaluate.progress_bar(n_images) as on_progress:
            evaluator = evaluator or Evaluator(dataset, test, protocol, on_progress=on_progress)
            evaluator.on_progress = on_progress
            run_folder = RunFolder.open(stage.path)
            last = evaluate.Candidate(run_folder, NEWEST.load(run_folder), best=False)
            evaluation = evaluator.evaluate(last.generator)
            evaluate.publish(evaluation, last, stage.path / "evaluation", raw=False)
        about = {"recipe": stage.name, "seed": stage.seed, "run": stage.path.name}
        write_json(stage.figures, about | {"command": job.command} | evaluation.to_dict())


if __name__ == "__main__":
    run(main)
