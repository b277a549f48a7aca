"""The documents are true: examples run, links and paths exist, commands parse, figures agree.

Most sections of docs/tutorial.md train for some epochs, here on 256 images. They are slow
tests. Weights & Biases comes with the extra `dev`.
"""

import importlib
import json
import re
import shlex
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest
import tyro
from PIL import Image

import cgan_jax
from cgan_jax.data import Dataset, load
from cgan_jax.presets import PRESETS
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.training.gan import GAN
from tests.helpers import ROOT, command
from tests.tutorial import TUTORIAL, blocks, read, run_examples, section_of

GUIDES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
MAX_EXAMPLE_LINES = 20
MAX_README_LINES = 150


@pytest.fixture
def report_run(fashion_mnist, tmp_path, monkeypatch):
    """An untrained runs/fashion_cgan in the current directory, as the main job writes it."""
    monkeypatch.chdir(tmp_path)
    config = PRESETS["report"]
    run = RunFolder.start("runs/fashion_cgan", config, fashion_mnist.class_names)
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(0, jax.jit(GAN.from_config(config).init)(jax.random.key(0)))


@pytest.fixture
def small_data(request, fashion_mnist, tmp_path, monkeypatch):
    """`load` returns 256 images, 4 steps per epoch, unless it is told the split.

    birds.npz and faces.npz are in the current directory.
    """
    monkeypatch.chdir(tmp_path)
    n_images = 640 if request.getfixturevalue("section") == "More discriminator steps" else 256
    images, labels = fashion_mnist.images[:n_images], fashion_mnist.labels[:n_images]
    few = Dataset.from_arrays(images, labels, fashion_mnist.class_names, name="fashion_mnist")

    def load_few(name, split=None):
        return few if split is None else load(name, split)

    monkeypatch.setattr(cgan_jax, "load", load_few, raising=False)
    colours = np.repeat(images[:96, ::2, ::2], 3, axis=-1)
    np.savez("birds.npz", images=colours, labels=labels[:96] % 3)
    attributes, names = labels[:96, None] % np.arange(2, 42) < 1, [f"{i}" for i in range(40)]
    np.savez("faces.npz", images=images[:96], attributes=attributes.astype(np.uint8), names=names)


def test_readme_examples_run(report_run):
    assert len(blocks(read("README.md"), "python")) == 1
    names = run_examples("README.md")
    assert (names["images"].shape, names["images"].dtype) == ((3, 28, 28, 1), np.uint8)


@pytest.mark.slow
def test_own_data_are_labelled_trained_and_evaluated(tmp_path, monkeypatch):
    """docs/own-data.md with its steps on drawings in place of the package, and small networks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CGAN_JAX_CACHE", str(tmp_path / "cache"))
    rng, emojis = np.random.default_rng(0), []
    Path("package").mkdir()
    Path("emoji").mkdir()
    for i in range(60):
        category = ["Component", "Food & Drink", "Flags"][max(1, i % 3) if i else 0]
        names = [f"{i}.png", f"{i}-tone.png"]
        for name in names:
            opaque = rng.integers(0, 256, (8, 8, 4), np.uint8)
            Image.fromarray(np.pad(opaque, ((4, 4), (4, 4), (0, 0)))).save(f"emoji/{name}")
        variations = {"skin_variations": {"tone": {"image": names[1]}}} if i % 2 else {}
        emojis.append({"image": names[0], "category": category} | variations)
    Path("package/emoji.json").write_text(json.dumps(emojis))
    run_examples("docs/own-data.md")
    train, evaluate = (
        shlex.split(blocks(section_of("docs/own-data.md", title), "sh")[0])[2:]
        for title in ("Train", "Evaluate")
    )
    small = "--epochs 2 --eval-every 1 --generator-widths 8 8 --discriminator-widths 8 8"
    for module, *flags in (
        [*train, *shlex.split(small), "--batch-size", "16", "--holdout", "0.2"],
        [*evaluate, "--fast"],
    ):
        done = command(module.removeprefix("experiments."), *flags, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    figures = json.loads(Path("runs/emoji/evaluation_fast/evaluation.json").read_text())
    assert figures["stamp"]["adapted"]
    assert 0 <= figures["measures"]["gan_test"]["mean"] <= 1


def check_resumed_run(names):
    assert names["boots"].shape == (16, 28, 28, 1)
    assert Path("runs/mine/samples/epoch_0005.png").exists()
    rows = Path("runs/mine/losses.csv").read_text()
    assert len(rows.splitlines()) == 21
    again = run_examples(TUTORIAL, "Train, stop, resume, sample")
    assert Path("runs/mine/losses.csv").read_text() == rows
    np.testing.assert_array_equal(again["boots"], names["boots"])


def check_images(names):
    assert names["bags"].shape == (16, 28, 28, 1)
    assert names["path"].shape == (10, 1, 28, 28, 1)
    assert Path("morph.png").stat().st_size > 1000
    assert names["middle"].shape == (2, 28, 28, 1)
    np.testing.assert_array_equal(names["same_bags"], names["bags"])


def check_settings(names):
    assert names["state"].gen.params["hidden_3"]["kernel"].shape == (1024, 2048)
    assert names["config"].loss == "hinge"


def check_recipe(names):
    assert "stage_0_block_0" in names["state"].gen.params
    assert names["state"].step == 20
    assert names["state"].average is not None


def check_parts(names):
    gan = GAN.from_config(names["config"])
    assert gan.loss.paired
    assert (gan.penalty.every, gan.penalty.schedule_steps) == (4, 20)
    assert (gan.augment.translation, gan.augment.cutout, gan.augment.color) == (True, True, False)
    assert gan.average.half_life == 20_000
    assert names["state"].step == 20


def check_own_parts(names):
    assert names["gan"].penalty.every == 2
    assert names["state"].average is not None
    assert names["state"].step == 20


def check_loss(names):
    assert names["gan"].loss.generator(np.float32(0.9)) == 0
    assert names["gan"].loss.discriminator(np.float32(0.9), np.float32(2)) == 2


def check_paired_loss(names):
    """At equal scores, both halves are log 2; the real images' lead lowers D's and raises G's."""
    loss = names["gan"].loss
    np.testing.assert_allclose(loss.discriminator(3.0, 3.0), np.log(2), rtol=1e-6)
    assert loss.discriminator(4.0, 3.0) < np.log(2) < loss.generator(4.0, 3.0)
    assert names["state"].step == 20


def check_penalty(names):
    """Of the scores `sum(x^2) / 2`, the gradient is the image."""
    images = np.full((3, 2, 2, 1), 2, np.float32)
    penalty = names["r1"](
        lambda x, labels: (x**2).sum(axis=(1, 2, 3)) / 2, (images, None), None, step=0, key=None
    )
    assert penalty == 16 / 2
    assert names["gan"].penalty is names["r1"]
    assert names["state"].step == 20


def check_augmentation(names):
    images = np.broadcast_to([[0.0], [1.0]], (64, 2, 2, 1))
    mirrored = np.asarray(names["mirror"](images, jax.random.key(0)))
    np.testing.assert_array_equal(mirrored[:, :, ::-1], 1 - mirrored)  # whole images
    assert 20 < (mirrored[:, 0, 0, 0] == 1).sum() < 44
    assert names["gan"].augment is names["mirror"]
    assert names["state"].step == 20


def check_average(names):
    """It lags behind the parameters and the statistics, and is what is sampled."""
    state = names["state"]
    for average, current in zip(
        jax.tree.leaves(state.average), jax.tree.leaves(state.gen.variables), strict=True
    ):
        assert average.shape == current.shape
        assert 0 < np.abs(np.asarray(average) - current).max() < 1
    assert names["generator"].variables is state.average
    assert names["generator"].generate("Bag").shape == (1, 28, 28, 1)


def check_optimizers(names):
    """Adam has two moments, RMSProp one; both are the networks' own."""
    state = names["state"]
    for net, n_moments in ((state.gen, 2), (state.disc, 1)):
        moments = [leaf for leaf in jax.tree.leaves(net.opt_state) if leaf.ndim]
        assert len(moments) == n_moments * len(jax.tree.leaves(net.params))
    assert state.step == 20


def check_generator(names):
    assert names["bags"].shape == (16, 28, 28, 1)
    assert names["state"].gen.params["Conv_0"]["kernel"].shape == (3, 3, 64, 64)
    before = names["state"]
    exec(blocks(section_of(TUTORIAL, "Your own generator"), "python")[1], names)
    jax.tree.map(np.testing.assert_array_equal, names["state"], before)


def check_discriminator(names):
    statistics = jax.tree.leaves(names["state"].disc.variables["batch_stats"])
    assert any(leaf.shape == () and leaf > 1 for leaf in statistics)  # singular values


def check_own_images(names):
    assert names["wrens"].shape == (16, 14, 14, 3)
    assert names["state"].step == 5 * 2


def check_quality(names):
    assert 0 <= names["means"]["gan_test"] < 0.5  # of an untrained generator
    assert names["means"]["fcd"] > 1


def check_callback(names):
    assert names["state"].step == 20
    assert not names["budget"].should_stop()


def check_tracker(names):
    names["wandb"].teardown()  # waits for its service, which writes the file after finish()
    [file] = Path("runs/tracked/wandb").glob("offline-run-*/*.wandb")
    content = file.read_bytes()
    assert [word for word in (b"d_loss", b"g_loss", b"batch_size") if word not in content] == []
    assert len(list(file.parent.glob("files/media/images/samples_*.png"))) == 2


def check_loop(names):
    assert names["state"].step == 100
    assert float(names["losses"].d_loss) < 0.3


def trains(n_steps=20):
    """What a section gives whose numbers are tested in tests/training/test_researchers*.py."""

    def check(names):
        assert names["state"].step == n_steps

    return check


def check_measures(names):
    header, *rows = Path("runs/measured/measures.csv").read_text().splitlines()
    assert header == "epoch,step,brightness,weight_norm"
    assert len(rows) == 5
    assert 0 < names["of_fakes"] < 1
    assert names["of_fakes"] != names["of_real"]


def check_seeds(names):
    assert names["states"].step.tolist() == [20] * 4
    assert names["losses"].d_loss.shape == (4, 4)


def check_grad(names):
    assert names["better_bags"].shape == (16, 28, 28, 1)


def check_score(names):
    assert (names["scores"].shape, names["scores"].dtype) == ((256,), np.float32)
    assert Path("oddest.png").stat().st_size > 1000


SECTIONS = {
    "Train, stop, resume, sample": check_resumed_run,
    "Images of a trained run": check_images,
    "The generator in jit and grad": check_grad,
    "What the discriminator says": check_score,
    "Other settings": check_settings,
    "A modern recipe": check_recipe,
    "The parts of a recipe": check_parts,
    "Parts in a GAN of your own": check_own_parts,
    "More discriminator steps": trains(10),
    "Your own loss": check_loss,
    "A paired loss": check_paired_loss,
    "An auxiliary classifier": trains(),
    "Feature matching": trains(),
    "Two discriminators": trains(),
    "Your own penalty": check_penalty,
    "Your own augmentation": check_augmentation,
    "Your own average of the generator": check_average,
    "Adaptive augmentation": trains(),
    "Averages of the scores": trains(),
    "Other optimizers": check_optimizers,
    "Muon": trains(),
    "A schedule-free optimizer": trains(),
    "Noise on the gradients": trains(),
    "Learning rates that fall on plateaus": trains(),
    "A learning rate from a callback": trains(16),
    "Gradient accumulation": trains(5),
    "Your own generator": check_generator,
    "Your own discriminator": check_discriminator,
    "Noise in each layer": trains(),
    "A Flax NNX module": trains(),
    "Your own images": check_own_images,
    "Labels that are vectors": trains(10),
    "No labels": trains(),
    "A Grain loader": trains(),
    "A PyTorch loader": trains(),
    "A generator of batches": trains(),
    "Measures of quality": check_quality,
    "Your own measure": check_measures,
    "Your own callback": check_callback,
    "Gradient norms": trains(),
    "An experiment tracker": check_tracker,
    "Your own loop": check_loop,
    "Several seeds at once": check_seeds,
}


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_tutorial_examples_run(section, small_data, request, monkeypatch):
    if "runs/fashion_cgan" in section_of(TUTORIAL, section):
        request.getfixturevalue("report_run")
    if section == "Measures of quality":  # the protocol needs all images
        monkeypatch.setattr(cgan_jax, "load", load)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    SECTIONS[section](run_examples(TUTORIAL, section))


def test_tutorial_is_short_and_every_section_is_tested():
    text = read(TUTORIAL)
    headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert headings == list(SECTIONS)
    table = text.split("\n## ")[0]
    assert set(re.findall(r"\[(.+?)\]\(#", table)) == set(headings)
    for example in blocks(text, "python"):
        assert sum(bool(line.strip()) for line in example.splitlines()) <= MAX_EXAMPLE_LINES
        assert max(map(len, example.splitlines())) <= 100, example


def test_readme_is_short():
    assert len(read("README.md").splitlines()) <= MAX_README_LINES


def anchors(file):
    """The anchors of a document's headings, as hosting sites make them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [*GUIDES, "CHANGELOG.md"])
def test_links_and_anchors_exist(document):
    file = ROOT / document
    for target in re.findall(r"\]\((?!http)([^)]+)", read(document)):
        path, _, anchor = target.partition("#")
        linked = file.parent / path if path else file
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("document", GUIDES)
def test_named_paths_exist(document):
    """Each `path/in/the/repository` in code style, a wildcard allowed; and each `module.name`."""
    for path in re.findall(
        r"`((?:\.ci|cgan_jax|docs|experiments|tests)/[\w./*]*)`", read(document)
    ):
        assert list(ROOT.glob(path)), path
    for name in re.findall(r"`((?:cgan_jax|experiments)(?:\.\w+)+)`", read(document)):
        if not find_spec_or_none(name):
            parent, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(parent), attribute), name


def find_spec_or_none(module):
    try:
        return find_spec(module)
    except ModuleNotFoundError:
        return None


def commands():
    """Every `python -m experiments...` in the documents, without comments."""
    found = set()
    for document in GUIDES:
        text = read(document)
        inline = re.findall(r"`(python -m experiments\.[^`]+)`", text.replace("\n", " "))
        lines = "".join(blocks(text, "sh")).splitlines()
        found |= {re.sub(r"\s+", " ", command) for command in inline}
        found |= {m[0].split("  #")[0].strip() for m in map(RUN.search, lines) if m}
    return sorted(found)


RUN = re.compile(r"(?<=python )-m experiments\..*|python -m experiments\..*")


class EndOfParsingError(Exception):
    """Ends a command when its flags are parsed."""


@pytest.mark.parametrize("command", commands())
def test_named_commands_accept_their_flags(command, tmp_path, monkeypatch):
    parse = tyro.cli

    def parse_only(*args, **kwargs):
        parse(*args, **kwargs)
        raise EndOfParsingError

    words = shlex.split(command, comments=True)
    module, *flags = words[words.index("-m") + 1 :]
    assert find_spec(module), module
    if flags and flags != ["--help"]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(tyro, "cli", parse_only)
        monkeypatch.setattr(sys, "argv", [module, *flags])
        with pytest.raises(EndOfParsingError):
            importlib.import_module(module).main()


def project():
    return tomllib.loads(read("pyproject.toml"))["project"]


def test_python_versions_agree():
    """README, classifiers, requires-python and the hosted workflow name the same versions."""
    classifiers = re.findall(r"Python :: (3\.\d+)", " ".join(project()["classifiers"]))
    first, last = classifiers[0], classifiers[-1]
    minor = int(last.removeprefix("3."))
    assert project()["requires-python"] == f">={first},<3.{minor + 1}"
    assert classifiers == [f"3.{n}" for n in range(int(first.removeprefix("3.")), minor + 1)]
    assert f"You need Python {first} to {last} " in read("README.md")
    matrix = ", ".join(f'"{version}"' for version in classifiers)
    assert f"python: [{matrix}]" in read(".github/workflows/ci.yml")


def test_map_of_packages_is_the_import_contract():
    """CONTRIBUTING lists all packages, from the lowest layer to the highest."""
    contract = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"][0]
    layers = [sorted(layer.split(" | ")) for layer in reversed(contract["layers"])]
    table = section_of("CONTRIBUTING.md", "Map").split("| package or module |")[1]
    rows = re.findall(r"^\| (`.+?`) \|", table, flags=re.MULTILINE)
    mapped = [re.findall(r"`(\w+)`", row) for row in rows]
    assert [name for row in mapped for name in row] == [name for layer in layers for name in layer]
    for name in (name for row in mapped for name in row):
        assert (ROOT / f"cgan_jax/{name}.py").exists() or (ROOT / f"cgan_jax/{name}").is_dir(), name


def test_pre_commit_runs_the_commands_of_ci():
    entries = re.findall(r"entry: (.+)", read(".pre-commit-config.yaml"))
    script = read(".ci/run").splitlines()
    assert len(entries) == 4
    assert {f".venv/bin/{entry}" for entry in entries} <= set(script)


def test_named_extras_exist():
    extras = project()["optional-dependencies"]
    for document in GUIDES:
        for name in re.findall(r"extra `(\w+)`|'\.\[(\w+)\]'", read(document)):
            assert "".join(name) in extras, (document, name)


def test_constraints_pin_every_dependency():
    pins = {normalised(line.split("==")[0]) for line in read("constraints.txt").splitlines()}
    extras = project()["optional-dependencies"]
    named = project()["dependencies"] + [r for e in extras for r in extras[e]]
    names = {normalised(re.split(r"[\[>=]", requirement)[0]) for requirement in named}
    assert names - {"cgan-jax"} <= pins


def normalised(name):
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def test_readme_results_are_those_of_the_results_page():
    """Every figure of README's tables is in docs/results.md; faults are its table's sums."""
    results = read("docs/results.md")
    rows = section_of("README.md", "Results").splitlines()
    rows = [row for row in rows if row.startswith("| ")][2:]
    assert 5 <= len(rows) <= 10
    *rows, faults = rows
    recipes = re.findall(r"^\| (?:`|real images \| \|).*", read("README.md"), flags=re.MULTILINE)
    assert len(recipes) > 2
    for row in [*rows, *recipes]:
        for figure in re.findall(r"\d[\d.,e±-]*\d", row.replace(" ± ", "±")):
            assert figure in results.replace(" ± ", "±"), figure
    counts = re.findall(r"^\| [^|]+ \| (\d+) \| (\d+) \| (\d+) \|", results, flags=re.MULTILINE)
    tries, survived, wrong = (sum(map(int, column)) for column in zip(*counts, strict=True))
    assert faults.endswith(f"| {survived} of {tries}, {wrong} |")


def test_stated_settings_are_the_report_presets():
    config = PRESETS["report"]
    state = jax.eval_shape(GAN.from_config(config).init, jax.random.key(0))
    sizes = [
        sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(net.params))
        for net in (state.gen, state.disc)
    ]
    steps = config.epochs * -(-60_000 // config.batch_size)
    for document, text in {
        "README.md": f"{config.epochs} epochs |",
        "docs/results.md": f"{config.epochs} epochs, {steps:,} steps |",
    }.items():
        assert "{:,} and {:,}".format(*sizes) in read(document)
        assert text in read(document)


def test_version_is_the_projects():
    assert cgan_jax.__version__ == project()["version"]
    assert (ROOT / "cgan_jax/py.typed").exists()
