"""A run as one web page, made of what its folder holds. Its layout is page.html's.

The page needs no network: pictures are in it, and its policy forbids the browser to fetch anything.
"""

import json
import os
import re
import shlex
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cgan_jax.checks import one_line
from cgan_jax.config import TrainConfig, leaves
from cgan_jax.data.dataset import count_words
from cgan_jax.errors import RunError
from cgan_jax.files import write_text
from cgan_jax.metrics.measures import describe, find_declines
from cgan_jax.model_config import kind_of
from cgan_jax.pictures.grids import MOST_CLASSES, rows_for
from cgan_jax.presets import PRESETS
from cgan_jax.reporting.page_pictures import class_pictures, embed
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.tables import INDEX_COLUMNS, format_figure, read_measures

MOST_GRIDS = 40
LARGE_GRID, LARGE_GRIDS = 125_000, 2_500_000  # bytes of one, and of all where one is larger
FOLD = 20  # classes in one section


class Setting(NamedTuple):
    """A setting of the run, and what a preset has instead, if that differs."""

    name: str
    value: str
    preset: str | None = None


def write_page(run_dir: str | os.PathLike[str]) -> Path:
    """Write `report.html` into a run's folder: settings, losses, measures and samples.

    Nothing is computed: what the folder lacks (samples, measures), the page lacks.

    Returns:
        the page's path.

    Raises:
        RunError: the folder is not a run, a file in it cannot be read, or the page cannot be
            written.
    """
    import jinja2

    run = RunFolder.open(run_dir)
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"format_figure": format_figure, "quote": shlex.quote, "python": repr}
    templates.filters["describe"] = describe
    page = templates.get_template("page.html").render(_contents(run))
    path = run.path / "report.html"
    write_text(path, page)
    return path


def spread(grids: Mapping[int, Path]) -> list[int]:
    """The epochs whose grids a page shows: evenly spaced, the first and the last among them.

    At most MOST_GRIDS, and fewer where they are large.
    """
    largest = max((path.stat().st_size for path in grids.values()), default=0)
    most = MOST_GRIDS if largest <= LARGE_GRID else max(2, LARGE_GRIDS // largest)
    n = min(len(grids), most)
    places = np.linspace(0, len(grids) - 1, n).round().astype(int)
    return [sorted(grids)[place] for place in places]


def preset_of(run: RunFolder) -> str:
    """The preset that a run started from: its command's, else the first of its kind of networks."""
    command = run.command.read_text(encoding="utf-8") if run.command.exists() else ""
    kind = type(run.config.model)
    names = re.findall(r" --preset (\w+)", command)
    names += [name for name, recipe in PRESETS.items() if type(recipe.model) is kind]
    return next((name for name in names if name in PRESETS), "report")


def settings(config: TrainConfig, name: str = "report") -> list[Setting]:
    """A configuration's settings, each compared with a preset's."""
    recipe = PRESETS[name]
    preset = dict(leaves(recipe.optimizer, "disc_optimizer.")) | dict(leaves(recipe))
    own = dict(leaves(config))
    if recipe.disc_optimizer and not config.disc_optimizer:
        del own["disc_optimizer"]
        own |= leaves(config.optimizer, "disc_optimizer.")
    rows = []
    if type(config.model) is not type(recipe.model):  # another kind, with settings of its own
        rows = [Setting("model", kind_of(config.model), kind_of(recipe.model))]
        preset = {name: x for name, x in preset.items() if not name.startswith("model.")}
    for name, value in own.items():
        same = value == preset.get(name, value)
        rows.append(Setting(name, _words(value), None if same else _words(preset[name])))
    return rows


def _contents(run: RunFolder) -> dict[str, Any]:
    """What the template fills in."""
    try:
        preset, files = preset_of(run), run.sample_grids()
        grids = [(f"epoch {epoch} of {max(files)}", files[epoch]) for epoch in spread(files)]
        steps, epoch = _progress(run)
        if run.stopped_grid.exists():
            grids.append((f"step {steps:,}", run.stopped_grid))
        classes = class_pictures(run, grids[-1][1] if grids else None)
        counts = [each.n_images for each in classes if each.n_images is not None]
        measures = read_measures(run.measures)
        return {
            "name": run.path.resolve().name,
            "run": run,
            "settings": settings(run.config, preset),
            "preset": preset,
            "version": version("cgan_jax"),
            "steps": steps,
            "epoch": epoch,
            "command": run.command.read_text(encoding="utf-8") if run.command.exists() else None,
            "grids": [(when, embed(file, LARGE_GRID)) for when, file in grids],
            "classes": [classes[i : i + FOLD] for i in range(0, len(classes), FOLD)],
            "counts": count_words(run.class_names, counts) if counts else None,
            "columns": one_line(", ".join(run.class_names), 400),
            "most_classes": MOST_CLASSES,
            "rows": rows_for(len(run.class_names)),
            "real": embed(run.path / "real.png", LARGE_GRID),
            "losses": embed(run.path / "losses.png"),
            "measures": {
                k: v for row in measures[-1:] for k, v in row.items() if k not in INDEX_COLUMNS
            },
            "declines": find_declines(measures),
            "measures_plot": embed(run.path / "measures.png"),
            "evaluations": [
                _evaluation(file) for file in sorted(run.path.glob("evaluation*/evaluation.json"))
            ],
        }
    except (OSError, ValueError) as error:
        where = getattr(error, "filename", None) or run.path
        raise RunError(
            f"{where} cannot be shown on a page: {one_line(error)}\n"
            "expected what the run wrote\nMove away what is damaged; the page does without it."
        ) from error


def _progress(run: RunFolder) -> tuple[int, int]:
    """How many steps are done, and the epoch of the last one in `losses.csv`, from 1, or 0."""
    rows = run.losses.read_text(encoding="utf-8").splitlines()[1:] if run.losses.exists() else []
    try:
        return run.steps_done(), int(rows[-1].partition(",")[0]) + 1 if rows else 0
    except ValueError as error:
        raise ValueError(f"{run.losses.name}: {error}") from error


def _evaluation(file: Path) -> dict[str, Any]:
    """What experiments/evaluate.py wrote: when, how, figures and pictures."""
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        protocol, columns = saved["stamp"]["protocol"], ("mean", "sd", "real")
        return {
            "kind": file.parent.name,
            "step": f"{saved['stamp']['step']:,}",
            "fakes": f"{protocol['n_images']:,}",
            "seeds": len(protocol["seeds"]),
            "fast": protocol["name"] == "fast",
            "adapted": "; ".join(saved["stamp"].get("adapted", ())),
            "test": saved["stamp"].get("test"),
            "reference": saved["stamp"].get("reference"),
            "warnings": saved.get("warnings", ()),
            "measures": [
                (name, describe(name), *(format_figure(row.get(c)) for c in columns))
                for name, row in saved["measures"].items()
            ],
            "confusion": embed(file.with_name("confusion.png")),
            "per_class": embed(file.with_name("per_class.png")),
            "nearest": embed(file.with_name("nearest.png")),
        }
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise RunError(
            f"{file} cannot be read: {one_line(error)}\nexpected an evaluation's figures\n"
            "Evaluate the run again, or move the folder away."
        ) from error


def _words(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "default" if value is None else str(value)
