"""A first state from another run's weights: every array, the rows of classes, fresh optimizers."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from cgan_jax.config import AverageConfig, OptimizerConfig
from cgan_jax.errors import RunError
from cgan_jax.presets import PRESETS
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.initialize import class_rows, init_from, source_of
from cgan_jax.training.gan import GAN
from experiments.proofs import tiny
from tests.golden.make_run_folder import FOLDER

REPORT = RunFolder.open(FOLDER)


def restored(folder, gan):
    with Checkpoints(folder, read_only=True) as checkpoints:
        return checkpoints.restore(jax.eval_shape(gan.init, jax.random.key(0)))


def assert_same(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def assert_fits(state, gan):
    """A step of this GAN accepts the state."""
    like = jax.eval_shape(gan.init, jax.random.key(0))
    assert jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state) == like


@pytest.mark.parametrize("keep", [False, True])
def test_weights_are_taken_and_optimizers_are_fresh(keep):
    optimizer, average = OptimizerConfig(lr=1e-3, b1=0.9), AverageConfig(keep=keep)
    config = replace(REPORT.config, loss="hinge", optimizer=optimizer, average=average)
    gan, old = GAN.from_config(config), restored(REPORT.checkpoints, GAN.from_config(REPORT.config))
    state, loaded = init_from(gan, config, REPORT.class_names, FOLDER)
    assert_same(
        (state.gen.variables, state.disc.variables), (old.gen.variables, old.disc.variables)
    )
    assert (state.step, old.step) == (0, 12)
    for net, optimizer in ((state.gen, gan.gen_optimizer), (state.disc, gan.disc_optimizer)):
        assert_same(net.opt_state, optimizer.init(net.params))
    assert loaded.average == ("weights" if keep else None)
    if keep:
        assert_same(state.average, old.gen.variables)
    places = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert_fits(state, gan)
    assert len(set(places)) == len(places)  # a step gives all of them away, each once
    line = f"Starting at the weights of {FOLDER} after 12 steps"
    assert str(loaded).startswith(line + ", where the average" * keep)
    assert "2 tables of 3 classes row by row" in str(loaded)


@pytest.fixture(scope="module")
def normalised(tmp_path_factory):
    """An untrained SNGAN run with random arrays, and its state: it has all kinds of tables."""
    config = tiny.shrink(PRESETS["projection"])
    run = RunFolder.start(tmp_path_factory.mktemp("runs") / "run", config, tiny.CLASS_NAMES)
    rng = np.random.default_rng(0)
    like = jax.eval_shape(GAN.from_config(config).init, jax.random.key(0))
    state = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), like)
    for folder in (run.checkpoints, run.best):
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(7, state.replace(step=np.int32(7)))
    return run, state


def test_classes_take_the_row_of_their_name_or_the_mean(normalised):
    run, old = normalised
    names = ("up", "Round  trip", "left", "down")
    config = replace(run.config, model=replace(run.config.model, n_classes=4))
    gan = GAN.from_config(config)
    state, loaded = init_from(gan, config, names, run.best)
    assert_fits(state, gan)
    assert (loaded.rows, loaded.average) == ((None, "round trip", "left", None), "average")
    assert (loaded.run, loaded.step) == (str(run.best), 7)
    assert "9 tables of 4 classes (2 by name, 2 by the mean of all rows)" in str(loaded)

    def rows(table):
        return np.stack([table.mean(0), table[2], table[0], table.mean(0)])

    def is_table(path):
        return path[-1].key == "embedding" or "embedding_norm" in jax.tree_util.keystr(path)

    tables = 0
    for new, before in ((state.gen, old.gen), (state.disc, old.disc)):
        flat = jax.tree.leaves_with_path(new.variables)
        for (path, array), expected in zip(flat, jax.tree.leaves(before.variables), strict=True):
            if path[-1].key == "embedding":
                tables += 1
                np.testing.assert_array_equal(array, rows(expected))
            elif not is_table(path):
                np.testing.assert_array_equal(array, expected)
    assert tables == 5  # scales and biases of two layers, and the projection
    averaged = old.average["params"]["block_0"]["batch_norm_1"]["scale"]["embedding"]
    np.testing.assert_array_equal(
        state.average["params"]["block_0"]["batch_norm_1"]["scale"]["embedding"], rows(averaged)
    )
    table = np.asarray(state.disc.params["score"]["embedding"]["embedding"])
    vectors = state.disc.variables["batch_stats"]["score"]["embedding_norm"]
    largest = np.linalg.norm(table, 2)
    np.testing.assert_allclose(vectors["u"] @ table @ vectors["v"], largest, rtol=1e-5)


@pytest.mark.parametrize(
    ("new", "old", "rows"),
    [
        ("ab", "ab", [0, 1]),
        ("ba", "ab", [1, 0]),
        ("xy", "ab", [0, 1]),  # renamed: in their order
        ("xb", "ab", [None, 1]),
        ("xyz", "ab", [None, None, None]),
        ("Ab", "ab", [0, 1]),
        ("a", "aA", [None]),
        ("aA", "aA", [0, 1]),
    ],
)
def test_rows_of_classes(new, old, rows):
    assert class_rows(tuple(new), tuple(old)) == rows


def test_what_was_loaded_is_kept_in_the_new_run(normalised, tmp_path):
    run, _ = normalised
    _, loaded = init_from(GAN.from_config(run.config), run.config, run.class_names, run.path)
    new = RunFolder.start(tmp_path / "new", run.config, run.class_names)
    assert source_of(new) is None
    loaded.save(new)
    assert source_of(new) == str(run.path)
    new.init.write_text("[]")
    with pytest.raises(RunError, match=r"init\.json cannot be read"):
        source_of(new)
