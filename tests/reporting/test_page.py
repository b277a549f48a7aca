"""A run's web page: what it shows, that no text of a run can become markup, and failures.

How it looks and answers in a browser is in test_pages_in_a_browser.py.
"""

import base64
import io
import logging
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cgan_jax.config import MODEL_KINDS, BaseModelConfig, OptimizerConfig, differences
from cgan_jax.errors import RunError
from cgan_jax.pictures.grids import MOST_ROWS, grid, shown_classes, tiles
from cgan_jax.presets import PRESETS
from cgan_jax.reporting.page import MOST_GRIDS, settings, spread, write_page
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.tables import read_measures, write_class_counts, write_measures
from experiments.proofs.tiny import CONFIG, dataset
from experiments.report import main
from experiments.shared import training
from experiments.shared.page import write_or_warn
from experiments.shared.training_flags import OutputFlags
from tests.helpers import command, finished_run

NAMES = ("<script>alert(1)</script>", 'left" onload="alert(2)', "{{ name }}")


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return finished_run(tmp_path / "<i>run</i>", NAMES)


def test_a_page_shows_what_the_folder_holds(run):
    page = Page(write_page(run.path))
    grids = [image for image in page.all("img") if "data-when" in image]
    assert [image["data-when"] for image in grids] == [f"epoch {n} of 3" for n in (1, 2, 3)]
    assert ["hidden" in image for image in grids] == [True, True, False]
    assert all(image["alt"] for image in page.all("img"))
    strips = [image for image in page.all("img") if image["alt"].startswith(("Gen", "Real: "))]
    assert {image["width"] for image in strips} == {str(5 * MOST_ROWS - 1)}
    assert len(strips) == 2 * len(NAMES)
    assert "Trained for 18 steps, epoch 3 of 3." in " ".join(page.text.split())
    changed = [row for row in page.all("tr") if row.get("class") == "changed"]
    assert len(changed) == len(differences(PRESETS["report"], CONFIG))
    for words in (
        "pixel_fd 0.250",
        "gan_test",
        "0.830",
        "share classified as the requested class; higher is better",
        "Frechet distance in principal components of the pixels; lower is better",
        "python -m the.run",
    ):
        assert words in page.text
    held = {image["src"].partition("base64,")[2] for image in page.all("img")}
    for file in run.path.rglob("*.png"):
        assert base64.b64encode(file.read_bytes()).decode() in held, file


def test_a_page_counts_images_and_shows_the_nearest_training_images(run):
    """Not those of other samples than the last ones; nor a blank where a class has few images."""
    page = write_page(run.path)
    assert "training images" not in Page(page).text
    write_class_counts(run.class_counts, NAMES, [1200, 3, 0])
    with Image.open(run.sample_grid(3)) as picture:
        samples = tiles(picture, 3, 4, 4)[:MOST_ROWS]
    grid(np.concatenate([samples, 255 - samples], axis=2), NAMES).save(run.nearest)
    text = " ".join(Page(write_page(run.path)).text.split())
    assert "1,200 training images" in text and "3 training images" in text
    assert "Below each is the training image nearest to it" in text
    images = {image["alt"]: image for image in Page(page).all("img")}
    data = images[f"Generated: {NAMES[1]}"]["src"].partition("base64,")[2]
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        expected = np.full((9, 5 * MOST_ROWS - 1), 128)
        for row, values in enumerate((samples, 255 - samples)):
            for i, sample in enumerate(values[:, 1, ..., 0]):
                expected[5 * row : 5 * row + 4, 5 * i : 5 * i + 4] = sample
        np.testing.assert_array_equal(picture, expected)
    assert images[f"Real: {NAMES[1]}"]["width"] == str(5 * 3 - 1)
    assert f"Real: {NAMES[2]}" not in images

    grid(np.concatenate([255 - samples, samples], axis=2), NAMES).save(run.nearest)
    assert "Below each" not in Page(write_page(run.path)).text


def test_a_page_of_many_classes_is_small(tmp_path):
    """Random images of 32x32 pixels in colour, the hardest to compress, of 1,000 classes."""
    names = [f"class {i}" for i in range(1000)]
    model = replace(CONFIG.model, n_classes=1000, img_size=32, channels=3)
    run = RunFolder.start(tmp_path / "run", replace(CONFIG, model=model), names)
    images = np.random.default_rng(0).integers(0, 256, (2, 200, 64, 32, 3), np.uint8)
    shown = [names[label] for label in shown_classes(1000)]
    run.stopped_grid.parent.mkdir()
    for file in (run.stopped_grid, run.path / "real.png"):
        grid(images[:, :, :32], shown).save(file, compress_level=1)
    grid(images, shown).save(run.nearest, compress_level=1)
    write_class_counts(run.class_counts, names, range(1, 1001))
    page = Page(write_page(run.path))
    assert run.path.joinpath("report.html").stat().st_size < 10_000_000
    assert "Of 1,000 classes, 200 are shown" in page.text
    assert len(page.all("article")) == 1000
    assert len([image for image in page.all("img") if image["alt"].startswith("Gener")]) == 200
    assert len(page.all("summary")) == 1 + 49


def test_a_page_warns_of_a_decline(run):
    def warned():
        return "Warning: pixel_fd has been clearly worse" in Page(write_page(run.path)).text

    assert not warned()
    rows = read_measures(run.measures)
    later = [row | {"pixel_fd": 3.0} for row in rows[-1:] * 3]
    write_measures(run.measures, [*rows, *later])
    assert warned()


def test_text_of_a_run_cannot_become_markup(run):
    page = Page(write_page(run.path))
    assert page.all("script") == [{}]
    assert not [name for name, attributes in page.elements if "onload" in attributes]
    assert not page.all("i")
    for name in NAMES:
        assert name in page.text
    links = [*page.all("link"), *page.all("a"), *page.all("img")]
    for link in links:
        assert (link.get("href") or link.get("src")).startswith(("data:", "#"))


def test_a_run_without_pictures_has_a_page(tmp_path):
    run = RunFolder.start(tmp_path / "run", CONFIG, ("a", "b", "c"))
    page = Page(write_page(run.path))
    assert "There are none yet" in page.text
    assert "None were taken. The callback MeasuresTable takes some" in " ".join(page.text.split())
    assert not page.all("img")
    config = replace(CONFIG, dataset="fashion_mnist")
    run = RunFolder.start(tmp_path / "fashion", config, ("a", "b", "c"))
    assert "experiments.evaluate" in Page(write_page(run.path)).text


def test_a_folder_of_runs_has_a_page_each(tmp_path, capsys, monkeypatch):
    for name in ("one", "two"):
        RunFolder.start(tmp_path / name, CONFIG, ("a", "b", "c"))
    (tmp_path / "sweep.csv").touch()
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path)])
    main()
    assert capsys.readouterr().out.count("open it in a browser") == 2
    assert {page.parent.name for page in tmp_path.glob("*/report.html")} == {"one", "two"}


def test_settings_are_compared_with_those_of_a_preset():
    own = replace(OptimizerConfig(), lr=0.1)
    config = replace(PRESETS["report"], disc_optimizer=own, epochs=3)
    changed = {row.name: (row.value, row.preset) for row in settings(config) if row.preset}
    assert changed == {"epochs": ("3", "200"), "disc_optimizer.lr": ("0.1", "0.0002")}
    for name, recipe in PRESETS.items():
        assert not [row for row in settings(recipe, name) if row.preset]
    rows = settings(replace(PRESETS["projection"], disc_optimizer=None), "projection")
    assert [row for row in rows if row.preset] == [("disc_optimizer.lr", "0.0001", "0.0004")]


@pytest.mark.parametrize(
    ("kind", "command", "expected"),
    [
        ("residual", None, "residual"),
        ("residual", "python -m experiments.train set --preset residual_wide", "residual_wide"),
        ("residual", "python -m a --preset residual_wide --epochs 3", "residual_wide"),
        ("residual", "python -m experiments.train set --preset other", "residual"),
        ("report", "python -m experiments.train '--preset'", "report"),
    ],
)
def test_a_page_compares_with_the_preset_of_the_run(tmp_path, kind, command, expected):
    model = replace(PRESETS[kind].model, n_classes=3)
    config = replace(PRESETS[expected], model=replace(model, latent_dim=7))
    run = RunFolder.start(tmp_path / "run", config, ("a", "b", "c"))
    if command:
        run.command.write_text(command)
    text = Page(write_page(run.path)).text
    assert f"what differs from the preset {expected}," in text
    assert f"model.latent_dim7preset: {PRESETS[expected].model.latent_dim}" in text


def test_a_model_of_another_kind_is_not_compared_part_by_part(tmp_path, monkeypatch):
    @dataclass(frozen=True)
    class Convolutional(BaseModelConfig):
        n_classes: int = 3
        latent_dim: int = 7
        img_size: int = 4
        depth: int = 2

    monkeypatch.setitem(MODEL_KINDS, "convolutional", Convolutional)
    config = replace(CONFIG, model=Convolutional())
    rows = {row.name: row for row in settings(config)}
    assert rows["model"] == ("model", "convolutional", "report")
    assert rows["model.latent_dim"] == ("model.latent_dim", "7", None)
    assert rows["model.depth"] == ("model.depth", "2", None)
    assert rows["epochs"].preset == "200"
    run = RunFolder.start(tmp_path / "run", config, ("a", "b", "c"))
    assert "convolutional" in Page(write_page(run.path)).text


def test_imported_weights_have_the_steps_of_their_checkpoint(tmp_path):
    run = RunFolder.start(tmp_path / "run", CONFIG, ("a", "b", "c"))
    (run.checkpoints / "1234").mkdir(parents=True)
    assert "Trained for 1,234 steps." in " ".join(Page(write_page(run.path)).text.split())


def test_a_large_page_has_its_size_in_mb(tmp_path, capsys, monkeypatch):
    run = RunFolder.start(tmp_path / "run", CONFIG, ("a", "b", "c"))
    for length, size in ((800_000, r"8\d\d kB"), (2_300_000, r"2\.3 MB")):
        run.command.write_text("x" * length)
        monkeypatch.setattr("sys.argv", ["report", str(tmp_path)])
        main()
        assert re.search(rf"\({size}\): open it in a browser", capsys.readouterr().out)


def test_grids_are_evenly_spread(tmp_path):
    file = tmp_path / "grid.png"
    file.write_bytes(bytes(1000))
    epochs = spread(dict.fromkeys([1, *range(5, 201, 5)], file))
    assert (len(epochs), epochs[0], epochs[-1]) == (MOST_GRIDS, 1, 200)
    assert max(np.diff(epochs)) == 10
    assert spread(dict.fromkeys((2, 1, 3), file)) == [1, 2, 3]
    assert spread({}) == []
    file.write_bytes(bytes(3_000_000))
    assert spread(dict.fromkeys(range(1, 100), file)) == [1, 99]


def test_a_picture_that_is_not_the_runs_is_not_an_example(run):
    Image.new("RGB", (64, 64)).save(run.path / "real.png")
    page = Page(write_page(run.path))
    assert not [image for image in page.all("img") if image["alt"].startswith("Real: ")]
    assert [image for image in page.all("img") if image["alt"].startswith("Generated: ")]


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("losses.png", "no picture"),
        ("losses.csv", "epoch,batch,d_loss,g_loss\n?"),
        ("measures.csv", "epoch\n1\n"),
        ("classes.csv", "class,images\na,1\n"),
        ("evaluation/evaluation.json", "{}"),
    ],
)
def test_damage_is_named_and_does_not_fail_training(run, name, held, caplog):
    page = write_or_warn(run.path)
    assert page == run.path / "report.html"
    before = page.read_bytes()
    (run.path / name).write_text(held)
    with pytest.raises(RunError, match=name) as caught:
        write_page(run.path)
    assert len(str(caught.value).splitlines()) <= 3
    with caplog.at_level(logging.WARNING, "cgan_jax"):
        assert write_or_warn(run.path) is None
    assert "has no new report.html" in caplog.text
    assert page.read_bytes() == before


@pytest.mark.parametrize("written", [True, False])
def test_training_names_the_page_only_if_it_was_written(tmp_path, capsys, monkeypatch, written):
    if not written:
        monkeypatch.setattr(training, "write_or_warn", lambda run_dir: None)
    config = replace(CONFIG, epochs=1)
    training.run(config, dataset(), tmp_path / "run", OutputFlags(), command="python -m x")
    out = capsys.readouterr().out
    assert "Finished: 6 steps in" in out
    assert (f"To look at: {tmp_path / 'run' / 'report.html'}" in out) == written
    assert ("To look at" in out) == written


def test_the_command_writes_the_page(run):
    done = command("report", run.path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"report\.html \([1-9]\d* kB\): open it", done.stdout)
    assert (run.path / "report.html").exists()
