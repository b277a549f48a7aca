"""The recipes' command: what it trains and when, its table, and once the whole of it."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from cgan_jax.config import OptimizerConfig
from cgan_jax.data import SPECS, Dataset
from cgan_jax.errors import ConfigError, RunError
from cgan_jax.metrics import evaluation
from cgan_jax.metrics.quick import N_IMAGES, compared_rows, evenly
from cgan_jax.metrics.reference import N_TRAINING
from cgan_jax.presets import PRESETS
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.tables import write_measures
from experiments import evaluate
from experiments.proofs import recipes, recipes_table
from experiments.proofs.recipes import RECIPES, Flags, plan, train_and_evaluate
from experiments.shared.choice import Checkpoint
from tests.helpers import check_flags

CLASS_NAMES = tuple("ABCDEFGHIJ")
PACE = {"report": 100.0, "residual_short": 5.0, "residual": 5.0}


def write_figures(folder, recipe, seed, run, steps, fcd):
    measures = {name: {"mean": 0.5, "real": 0.9} for name in recipes_table.COLUMNS}
    measures["fcd"] = {"mean": fcd, "real": 0.014}
    saved = {"recipe": recipe, "seed": seed, "run": run, "stamp": {"step": steps}}
    (folder / f"{recipe}_seed_{seed}.json").write_text(json.dumps(saved | {"measures": measures}))


@pytest.fixture
def rows(tmp_path):
    """The report's, two seeds of residual, and a shorter run of it."""
    write_figures(tmp_path, "residual", 0, "residual_seed_0", 36_000, 1.0)
    write_figures(tmp_path, "residual", 1, "residual_seed_1", 36_000, 2.0)
    write_figures(tmp_path, "residual_short", 0, "residual_short_seed_0", 9_000, 3.0)
    write_figures(tmp_path, "report", 0, "report_seed_0", 1_200, 4.0)
    return recipes_table.read_figures(tmp_path, list(RECIPES))


def test_stages_are_commands_with_some_twenty_evaluations():
    stages = Flags(seeds=(3, 4)).stages()
    names = [name for name in RECIPES for _ in range(2)]
    assert [stage.name for stage in stages] == names
    for stage in stages:
        job, recipe = stage.job(), RECIPES[stage.name]
        expected = PRESETS[stage.name.partition("_short")[0].removesuffix("_average")]
        average = replace(expected.average, keep=True)
        expected = replace(expected, epochs=recipe.epochs, seed=stage.seed)
        if stage.name == "report_average":
            expected = replace(expected, average=average)
        assert job.config == expected
        assert stage.path == Flags.workdir / f"{stage.name}_seed_{stage.seed}"
        assert min(16, recipe.epochs) <= recipe.epochs // job.output.eval_every <= 25
        assert recipe.epochs % job.output.eval_every == 0


def test_a_rehearsal_has_its_own_folder():
    for stage in Flags(fast=True).stages():
        assert stage.path.parent == Flags.workdir / "fast"
        assert stage.job().config.epochs == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"recipes": ()}, "recipes is empty"),
        ({"seeds": (1, 1)}, "seeds is 1 1"),
        ({"rounds": 0}, "rounds must be"),
    ],
)
def test_bad_flags_are_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        check_flags(Flags(**flags))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 40}, "of 40 epochs\nexpected one of at most 25"),
        ({"epochs": 10, "schedule_steps": 9380}, "schedule_steps: 9380 -> 23450"),
        (
            {"optimizer": OptimizerConfig(lr=4e-4, b1=0.0, b2=0.99)},
            "optimizer.lr_end: None -> 2e-05",
        ),
    ],
)
def test_a_run_of_other_settings_is_not_measured(tmp_path, changes, message):
    """Though `fashion_cgan` would resume it with the settings that it has."""
    (stage,) = Flags(recipes=("residual",), workdir=tmp_path).stages()
    config = stage.job().config.with_schedule_steps(60_000)
    RunFolder.start(stage.path, replace(config, **changes), CLASS_NAMES)
    with pytest.raises(RunError, match=message):
        stage.job()


def test_plan_counts_the_steps_left(tmp_path):
    stages = Flags(recipes=("report", "residual_short", "residual"), workdir=tmp_path).stages()
    jobs = [(stage, stage.job()) for stage in stages]
    (stages[0].path / "checkpoints" / "180000").mkdir(parents=True)
    assert plan(jobs, 60_000, PACE).splitlines() == [
        "report, seed 0: 7,600 steps, 1 min 16 s",
        "residual_short, seed 0: 9,380 steps, 31 min 16 s",
        "residual, seed 0: 23,450 steps, 1 h 18 min",
        "1 h 50 min of training in all, and some minutes for each evaluation.",
    ]


def test_table_has_mean_and_spread_over_the_seeds(rows):
    lines = recipes_table.table(rows, PACE).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| `report` | 0 | 0.2 | 0.500 | 0.500 | 4.00 |")
    assert lines[3].startswith("| `residual_short` | 0 | 30 | 0.500 | 0.500 | 3.00 |")
    assert lines[4].startswith("| `residual` | 0 1 | 120 | 0.500 ± 0 | 0.500 ± 0 | 1.50 ± 0.71 |")
    assert lines[5].startswith("| real images | | | 0.900 | 0.900 | 0.0140 |")


def test_each_run_has_one_curve(rows):
    points = {"gan_test": 0.5, "fcd": 2.0, "coverage": 0.25}
    for run in {row.run for row in rows}:
        run.mkdir()
        measured = [{"epoch": i, "step": 600.0 * i} | points for i in (1, 2)]
        write_measures(run / "measures.csv", measured)
    curves = recipes_table.curves(rows, PACE)
    assert list(curves) == ["report", "residual_short", "residual"]
    assert curves["report"] == [
        {"x": [0.1, 0.2], "gan_test": [0.5, 0.5], "fcd": [2.0, 2.0], "coverage": [0.25, 0.25]}
    ]
    assert [run["x"] for run in curves["residual"]] == [[2.0, 4.0], [2.0, 4.0]]


def test_all_runs_share_the_measures_of_real_images(tmp_path, monkeypatch, tiny_dataset):
    """Each with a progress bar of its own."""
    bars, evaluators = [], []

    class Measuring:
        def __init__(self, *data, on_progress):
            self.on_progress = on_progress
            evaluators.append(self)

        def evaluate(self, generator):
            bars.append(self.on_progress)
            return SimpleNamespace(to_dict=dict)

    monkeypatch.setattr(evaluation, "Evaluator", Measuring)
    monkeypatch.setattr(recipes, "load", lambda *_: tiny_dataset)
    monkeypatch.setattr(RunFolder, "open", lambda path: None)
    monkeypatch.setattr(Checkpoint, "load", lambda *_: SimpleNamespace(generator=None))
    monkeypatch.setattr(evaluate, "publish", lambda *_, raw: None)
    trained = []
    config = SimpleNamespace(with_schedule_steps=lambda n: None)
    job = SimpleNamespace(config=config, command="", train=lambda *args: trained.append(args[-1]))
    flags = Flags(recipes=("report", "residual"), workdir=tmp_path)
    train_and_evaluate([(stage, job) for stage in flags.stages()], tiny_dataset, flags)
    assert len(trained) == len(bars) == len(set(map(id, bars))) == 2
    assert len(evaluators) == 1
    assert len(list(tmp_path.glob("*.json"))) == 2


@pytest.mark.parametrize("content", ["{", "{}", '{"measures": 3}', "[]"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "report_seed_0.json").write_text(content)
    with pytest.raises(RunError, match=r"report_seed_0\.json cannot be read"):
        recipes_table.read_figures(tmp_path, list(RECIPES))
    (tmp_path / recipes_table.PACE).write_text(content)
    with pytest.raises(RunError, match=r"pace\.json cannot be read"):
        recipes_table.read_pace(tmp_path)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"))


@pytest.fixture
def rehearse(tmp_path, fashion_mnist, monkeypatch, capsys):
    """Rehearses some recipes, with narrow networks and few steps; returns what is printed."""
    small = ["--generator-widths", "16", "32", "--discriminator-widths", "32", "32"]
    small += ["--batch-size", "3900"]
    narrow = {name: each._replace(words=(*each.words, *small)) for name, each in RECIPES.items()}
    monkeypatch.setattr(recipes, "RECIPES", narrow)
    monkeypatch.setattr(recipes, "SECONDS", 0.5)
    flags = ["--fast", "--rounds", "1", "--workdir", str(tmp_path), "--recipes"]

    def run(*names):
        monkeypatch.setattr("sys.argv", [recipes.MODULE, *flags, *names])
        recipes.main()
        return capsys.readouterr().out

    return run


def test_real_figures_are_of_images_that_nothing_else_has_seen(monkeypatch):
    """Neither the reference classifier, nor those that the fakes are compared with."""
    index = np.arange(60_000)
    images = np.zeros((60_000, 28, 28, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = index % 256, index // 256
    names = SPECS["fashion_mnist"].class_names
    dataset = Dataset(images, (index % 10).astype(np.int32), names, "fashion_mnist", "here")
    taken = []

    def measures(images, labels):
        taken.extend(images[:, 0, :2, 0] @ [1, 256])
        np.testing.assert_array_equal(np.bincount(labels), 10 * [N_IMAGES // 10])
        return {"gan_test": 0.9, "fcd": 0.1, "coverage": 0.8, "pixel_fd": 0.2}

    monkeypatch.setattr(recipes_table, "quick_measures", lambda given: measures)
    assert recipes_table.real_figures(dataset) == {"gan_test": 0.9, "fcd": 0.1, "coverage": 0.8}
    assert min(taken) >= N_TRAINING
    assert len(set(taken)) == N_IMAGES
    compared = N_TRAINING + evenly(dataset.labels[N_TRAINING:], N_IMAGES, 10)
    np.testing.assert_array_equal(compared_rows(dataset), compared)
    assert not set(taken) & set(compared)


@pytest.mark.slow
def test_a_rehearsal_makes_all_of_it_and_adds_to_it(tmp_path, rehearse):
    printed = rehearse("report")
    assert "report, seed 0: 16 steps" in printed
    folder = tmp_path / "fast"
    table = (folder / recipes_table.TABLE).read_text(encoding="utf-8")
    assert table in printed
    assert [line.split(" |")[0] for line in table.splitlines()[2:]] == [
        "| `report`",
        "| real images",
    ]
    alone = pixels(folder / recipes_table.SAMPLES)

    printed = rehearse("report", "relativistic_mlp")
    assert "report, seed 0" not in printed  # it is measured
    table = (folder / recipes_table.TABLE).read_text(encoding="utf-8")
    assert [line.split(" |")[0] for line in table.splitlines()[2:4]] == [
        "| `report`",
        "| `relativistic_mlp`",
    ]
    both = pixels(folder / recipes_table.SAMPLES)
    assert both.shape[0] > alone.shape[0]
    block = slice(0, alone.shape[0] - 20)  # real images and the report's are the same
    assert (both[block] == alone[block]).all()
    assert pixels(folder / recipes_table.PLOT).std() > 15
