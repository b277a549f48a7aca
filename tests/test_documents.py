"""The Python examples in README.md and docs/ run as they stand, and links lead somewhere.

Those of docs/tutorial.md train for some epochs each, here of 256 images: they are slow tests, but
for the first. Weights & Biases comes with the extra `dev`.
"""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

import cgan_jax
from cgan_jax.data import Dataset
from cgan_jax.presets import PRESETS
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.training.gan import GAN

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", "docs/tutorial.md"]
MOST_LINES = 15


def examples(document, section=""):
    """The Python examples of a document, or of the section with this heading."""
    text = (ROOT / document).read_text(encoding="utf-8")
    if section:
        text = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def run_examples(document, section=""):
    """Run them one after another, and give what they named."""
    names = {"__name__": "example"}
    for example in examples(document, section):
        exec(compile(example, f"{document}: {section}", "exec"), names)
    return names


@pytest.fixture
def report_run(fashion_mnist, tmp_path, monkeypatch):
    """runs/fashion_cgan in the current directory, as the main job makes it (but untrained)."""
    monkeypatch.chdir(tmp_path)
    config = PRESETS["report"]
    run = RunFolder.start("runs/fashion_cgan", config, fashion_mnist.class_names)
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(0, jax.jit(GAN.from_config(config).init)(jax.random.key(0)))


@pytest.fixture
def little_data(fashion_mnist, tmp_path, monkeypatch):
    """`load` gives 256 images, 4 steps an epoch; and birds.npz is in the current directory."""
    monkeypatch.chdir(tmp_path)
    images, labels = fashion_mnist.images[:256], fashion_mnist.labels[:256]
    few = Dataset.from_arrays(images, labels, fashion_mnist.class_names, name="fashion_mnist")
    monkeypatch.setattr(cgan_jax, "load", lambda name: {"fashion_mnist": few}[name], raising=False)
    colours = np.repeat(images[:96, ::2, ::2], 3, axis=-1)
    np.savez("birds.npz", images=colours, labels=labels[:96] % 3)


def test_the_readmes_examples(report_run):
    assert len(examples("README.md")) == 2
    names = run_examples("README.md")
    assert (names["images"].shape, names["images"].dtype) == ((3, 28, 28, 1), np.uint8)
    assert Path("boots.png").stat().st_size > 1000
    assert int(names["state"].step) == 100
    assert float(names["losses"].d_loss) < 0.2


def goes_on(names):
    assert names["boots"].shape == (16, 28, 28, 1)
    assert Path("runs/mine/samples/epoch_0005.png").exists()
    rows = Path("runs/mine/losses.csv").read_text()
    assert len(rows.splitlines()) == 21
    again = run_examples("docs/tutorial.md", "Train, stop, go on, sample")
    assert Path("runs/mine/losses.csv").read_text() == rows
    np.testing.assert_array_equal(again["boots"], names["boots"])


def has_the_settings(names):
    assert names["state"].gen.params["hidden_3"]["kernel"].shape == (1024, 2048)
    assert names["config"].loss == "hinge"


def has_the_loss(names):
    assert names["gan"].loss.generator(np.float32(0.9)) == 0
    assert names["gan"].loss.discriminator(np.float32(0.9), np.float32(2)) == 2


def moved_every_fifth_step(names):
    """Adam counts its own steps: 20 of the discriminator are 4 of the generator."""
    leaves = jax.tree.leaves(names["state"].gen.opt_state.inner_state)
    [count] = [leaf for leaf in leaves if leaf.dtype == np.int32]
    assert (count, names["state"].step) == (4, 20)


def sampled_with_its_own_module(names):
    assert names["bags"].shape == (16, 28, 28, 1)
    assert names["state"].gen.params["ConvTranspose_0"]["kernel"].shape == (4, 4, 64, 64)
    before = names["state"]
    exec(examples("docs/tutorial.md", "A generator of your own")[1], names)
    jax.tree.map(np.testing.assert_array_equal, names["state"], before)


def normalised_the_discriminator(names):
    statistics = jax.tree.leaves(names["state"].disc.batch_stats)
    assert any(leaf.shape == () and leaf > 1 for leaf in statistics)  # singular values


def trained_on_birds(names):
    assert names["wrens"].shape == (16, 14, 14, 3)
    assert names["state"].step == 5 * 2


def lags_behind(names):
    state = names["state"]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.shape, b.shape), *both(state))
    first, last = (jax.tree.leaves(tree)[0] for tree in both(state))
    assert 0 < np.abs(np.asarray(first) - last).max() < 0.1
    assert names["generator"].generate("Bag").shape == (1, 28, 28, 1)


def both(state):
    return state.gen.opt_state[1], state.gen.params


def spent_nothing(names):
    assert names["state"].step == 20
    assert not names["budget"].is_spent()


def wrote_a_run_for_later(names):
    [file] = Path("runs/tracked/wandb").glob("offline-run-*/*.wandb")
    written = file.read_bytes()
    assert all(word in written for word in (b"d_loss", b"g_loss", b"batch_size"))
    assert len(list(file.parent.glob("files/media/images/samples_*.png"))) == 2


def took_a_hundred_steps(names):
    assert names["state"].step == 100
    assert float(names["losses"].d_loss) < 0.3


SECTIONS = {
    "Train, stop, go on, sample": goes_on,
    "Other settings": has_the_settings,
    "A loss of your own": has_the_loss,
    "Other optimizers": moved_every_fifth_step,
    "A generator of your own": sampled_with_its_own_module,
    "A discriminator of your own": normalised_the_discriminator,
    "Your own images": trained_on_birds,
    "An average of the generator": lags_behind,
    "A callback of your own": spent_nothing,
    "An experiment tracker": wrote_a_run_for_later,
    "A loop of your own": took_a_hundred_steps,
}
FAST = ["Train, stop, go on, sample"]


@pytest.mark.parametrize(
    "section", [pytest.param(s, marks=() if s in FAST else pytest.mark.slow) for s in SECTIONS]
)
def test_the_tutorials_examples(section, little_data, monkeypatch):
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    SECTIONS[section](run_examples("docs/tutorial.md", section))


def test_the_tutorial_is_short_and_all_of_it_is_tried():
    text = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE) == list(SECTIONS)
    for example in examples("docs/tutorial.md"):
        assert sum(bool(line.strip()) for line in example.splitlines()) <= MOST_LINES, example
        assert max(map(len, example.splitlines())) <= 100, example


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    file = ROOT / document
    text = file.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    targets = re.findall(r"\]\((?!http)([^)]+)", text)
    assert targets
    for target in targets:
        path, _, anchor = target.partition("#")
        assert (file.parent / path).exists(), target
        assert path or anchor in anchors, target
