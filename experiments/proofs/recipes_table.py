"""The table, the plot and the picture of recipes.py, from what has been measured in its folder."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from cgan_jax.checks import errors_as
from cgan_jax.data import Dataset
from cgan_jax.environment import environment
from cgan_jax.errors import RunError
from cgan_jax.files import atomic_write, write_json, write_text
from cgan_jax.metrics.quick import N_IMAGES, compared_rows, evenly, quick_measures
from cgan_jax.metrics.reference import N_TRAINING
from cgan_jax.pictures.fonts import drawable
from cgan_jax.pictures.grids import MARGIN, grid, labelled_examples
from cgan_jax.pictures.plots import plot_curves
from cgan_jax.runs.tables import format_figure, read_measures

TABLE, PACE, PLOT, SAMPLES = "recipes.md", "pace.json", "quality.png", "samples.png"
COLUMNS = ("gan_test", "gan_test_worst", "fcd", "precision", "recall", "coverage", "cas", "fld")
CURVES = ("gan_test", "fcd", "coverage")
ROWS = 3  # images of each class, of each kind
CAPTION_SIZE = 16
REMEDY = "expected what this command wrote\nMove the file away, and it is measured again."


class Figures(NamedTuple):
    """What was measured of a recipe's run.

    Attributes:
        recipe: its name.
        seed: of training.
        run: the run's folder.
        steps: of training.
        means: of each measure, over the seeds of the latent points.
        real: the same of real images.
    """

    recipe: str
    seed: int
    run: Path
    steps: int
    means: Mapping[str, float]
    real: Mapping[str, float]


def read_figures(folder: Path, order: Sequence[str]) -> list[Figures]:
    """What has been measured in a folder, in the recipes' order.

    Raises:
        RunError: a file cannot be read.
    """
    rows = []
    for path in folder.glob("*_seed_*.json"):
        with errors_as(RunError, f"{path} cannot be read", REMEDY):
            saved = json.loads(path.read_text(encoding="utf-8"))
            measures = saved["measures"]
            means = {name: each["mean"] for name, each in measures.items()}
            real = {name: each["real"] for name, each in measures.items()}
            run, steps = folder / saved["run"], saved["stamp"]["step"]
            rows.append(Figures(saved["recipe"], saved["seed"], run, steps, means, real))
    return sorted(rows, key=lambda row: (order.index(row.recipe), row.seed))


def read_pace(folder: Path) -> dict[str, float]:
    """Steps per second of each recipe, as measured last; none without a file.

    Raises:
        RunError: the file cannot be read.
    """
    path = folder / PACE
    if not path.exists():
        return {}
    with errors_as(RunError, f"{path} cannot be read", REMEDY):
        pace = json.loads(path.read_text(encoding="utf-8"))["steps_per_second"]
        return {name: float(rate) for name, rate in pace.items()}


def write_pace(pace: Mapping[str, float], folder: Path) -> None:
    """Keep what was measured, with the machine's versions."""
    write_json(folder / PACE, {"environment": environment(), "steps_per_second": pace})


def publish(rows: Sequence[Figures], dataset: Dataset, pace: Mapping[str, float]) -> None:
    """Print the table, and write it, the plot and the picture beside the runs."""
    folder = rows[0].run.parent
    text = table(rows, pace)
    print(f"\n{text}\n")
    write_text(folder / TABLE, text + "\n")
    with atomic_write(folder / PLOT) as file:
        plot_curves(curves(rows, pace), "minutes of training", real_figures(dataset), file)
    with atomic_write(folder / SAMPLES) as file:
        samples(rows, dataset).save(file)
    print(f"The table is in {folder / TABLE}, with {PLOT} and {SAMPLES} beside it.")


def table(rows: Sequence[Figures], pace: Mapping[str, float]) -> str:
    """One row per recipe: mean over the seeds, ± standard deviation where there are several."""
    lines = [
        f"| recipe | seeds | minutes | {' | '.join(COLUMNS)} |",
        "| --- |" + " --- |" * (2 + len(COLUMNS)),
    ]
    for recipe in dict.fromkeys(row.recipe for row in rows):
        runs = [row for row in rows if row.recipe == recipe]
        minutes = runs[0].steps / pace[recipe] / 60
        cells = [_mean_and_sd([run.means.get(name) for run in runs]) for name in COLUMNS]
        seeds = " ".join(str(run.seed) for run in runs)
        lines.append(
            f"| `{recipe}` | {seeds} | {minutes:.{minutes < 10:d}f} | {' | '.join(cells)} |"
        )
    real = [format_figure(rows[0].real.get(name)) for name in COLUMNS]
    lines.append(f"| real images | | | {' | '.join(real)} |")
    return "\n".join(lines)


def _mean_and_sd(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]  # a fast look has no cas
    if not known:
        return ""
    sd = f" ± {np.std(known, ddof=1):.2g}" if len(known) > 1 else ""
    return format_figure(float(np.mean(known))) + sd


def curves(
    rows: Iterable[Figures], pace: Mapping[str, float]
) -> dict[str, list[dict[str, list[float]]]]:
    """What was measured during training: for each recipe one curve per run, with its minutes."""
    lines: dict[str, list[dict[str, list[float]]]] = {}
    for row in rows:
        points = read_measures(row.run / "measures.csv")
        minutes = [point["step"] / pace[row.recipe] / 60 for point in points]
        curve = {name: [point[name] for point in points] for name in CURVES}
        lines.setdefault(row.recipe, []).append({"x": minutes} | curve)
    return lines


def real_figures(dataset: Dataset) -> dict[str, float]:
    """What real images give by the measures of a curve, which `--eval-every` takes.

    They are training images that the reference classifier was not fitted to, and that the fakes
    are not compared with.
    """
    others = np.setdiff1d(np.arange(N_TRAINING, len(dataset)), compared_rows(dataset))
    others = others[evenly(dataset.labels[others], N_IMAGES, len(dataset.class_names))]
    figures = quick_measures(dataset)(dataset.images[others], dataset.labels[others])
    return {name: figures[name] for name in CURVES}


def samples(rows: Sequence[Figures], dataset: Dataset) -> Image.Image:
    """Real images, those of the report, and those of the recipe with the lowest fcd.

    Of the first seed; the first latent points of seed 0, none of them selected.
    """
    from cgan_jax.sampling.generator import load_generator  # imports JAX

    names, shape = dataset.class_names, dataset.images.shape[1:]
    real = labelled_examples(dataset.images, dataset.labels, len(names), ROWS)
    blocks = {"real images": grid(real, names)}
    best = min(rows, key=lambda row: row.means["fcd"])
    report = [row for row in rows if row.recipe == "report"][:1]
    for row in [*report, best]:
        labels = np.tile(np.arange(len(names)), ROWS)
        images = load_generator(row.run, step=row.steps).generate(labels, seed=0)
        blocks[row.recipe] = grid(images.reshape(ROWS, len(names), *shape), [""] * len(names))
    return _stacked(blocks)


def _stacked(blocks: Mapping[str, Image.Image]) -> Image.Image:
    """Grids of equal width, one below the other, each under its caption.

    The caption of the first stands above the classes' names, the others where these would be.
    """
    height = CAPTION_SIZE + sum(block.height for block in blocks.values())
    picture = Image.new("RGB", (next(iter(blocks.values())).width, height), "white")
    draw, y = ImageDraw.Draw(picture), CAPTION_SIZE
    for i, (caption, block) in enumerate(blocks.items()):
        text, font = drawable(caption, CAPTION_SIZE)
        picture.paste(block, (0, y))
        draw.text((MARGIN, y + 6 if i else 6), text, (0, 0, 0), font)
        y += block.height
    return picture
