"""Several runs at once: each member is its own single run, and goes on as one."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from cgan_jax.errors import ConfigError, DivergenceError
from cgan_jax.reporting.callbacks import LossesTable
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.restore import restore_run
from cgan_jax.runs.tables import read_losses
from cgan_jax.training.callbacks import Callback
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import train
from cgan_jax.training.sweep import Member, train_members
from tests.helpers import StopAfter


def varied(config, lrs=(2e-4, 1e-3, 2e-4), b1s=(0.5, 0.5, 0.9)):
    """Three configurations that differ in seed, learning rate and beta1."""
    return [
        replace(config, seed=i, optimizer=replace(config.optimizer, lr=lr, b1=b1))
        for i, (lr, b1) in enumerate(zip(lrs, b1s, strict=True))
    ]


class Recorder(Callback):
    """Keeps losses and the last state."""

    def __init__(self):
        self.losses, self.ended = [], None

    def on_span_end(self, span):
        self.losses.append(span.losses)

    def on_epoch_end(self, epoch):
        self.state = jax.tree.map(np.array, epoch.state)

    def on_train_end(self, step, state):
        self.ended = step


def leaves(state):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(state)}


def assert_close(one, other, **bounds):
    one, other = leaves(one), leaves(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], err_msg=name, **bounds)


@pytest.mark.parametrize("vmap", [False, True])
def test_each_member_is_its_own_single_run(tiny_config, tiny_dataset, vmap):
    """Within what float32 rounding makes of 18 steps; see also tests/test_numerics.py."""
    configs = varied(tiny_config)
    together, means = [Recorder() for _ in configs], Recorder()
    members = [
        Member(str(i), config, [recorder])
        for i, (config, recorder) in enumerate(zip(configs, together, strict=True))
    ]
    states = train_members(members, tiny_dataset, callbacks=[means], vmap=vmap)
    for i, (config, recorder) in enumerate(zip(configs, together, strict=True)):
        alone = Recorder()
        train(GAN.from_config(config), config, tiny_dataset, callbacks=[alone])
        losses = np.concatenate(recorder.losses)
        assert losses.shape == (18, 2)
        np.testing.assert_allclose(losses, np.concatenate(alone.losses), atol=1e-5)
        assert_close(recorder.state, alone.state, atol=1e-4)
        assert_close(states[i], recorder.state, rtol=0)
        assert states[i].step == 18
    np.testing.assert_allclose(
        np.concatenate(means.losses),
        np.mean([np.concatenate(recorder.losses) for recorder in together], axis=0),
        rtol=1e-6,
    )
    assert not np.allclose(together[0].losses[-1], together[1].losses[-1])


def test_seeds_in_turn_have_the_bits_of_single_runs(tiny_config, tiny_dataset):
    configs = [replace(tiny_config, seed=seed) for seed in (3, 4)]
    members = [Member(str(config.seed), config) for config in configs]
    states = train_members(members, tiny_dataset, vmap=False)
    for config, state in zip(configs, states, strict=True):
        assert_close(state, train(GAN.from_config(config), config, tiny_dataset), rtol=0)


def run(configs, dataset, folder, stop_after=10**9, **more):
    """Train in a folder a member."""
    stop = StopAfter(stop_after)
    members, stores = [], []
    for i, config in enumerate(configs):
        its = RunFolder.start(folder / str(i), config, dataset.class_names)
        stores.append(Checkpoints(its.checkpoints))
        members.append(Member(str(i), config, [LossesTable(its)], stores[-1]))
    try:
        return train_members(
            members, dataset, callbacks=[stop], checkpoint_every=1, should_stop=stop, **more
        )
    finally:
        for store in stores:
            store.__exit__(None, None, None)


def digest(folder, n):
    """What a sweep left, by name."""
    found = {}
    for i in range(n):
        opened = RunFolder.open(folder / str(i))
        found |= {(i, name): leaf for name, leaf in leaves(restore_run(opened)[1]).items()}
        found[i, "losses"] = read_losses(opened.losses)
    return found


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=str(name))


@pytest.fixture(scope="module")
def whole(tiny_config, tiny_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(varied(tiny_config), tiny_dataset, folder)
    return digest(folder, 3)


@pytest.mark.parametrize("stops", [(1,), (8, 3)])
def test_a_sweep_that_was_stopped_ends_in_the_same_bits(
    tiny_config, tiny_dataset, tmp_path, whole, stops
):
    for stop in (*stops, 10**9):
        run(varied(tiny_config), tiny_dataset, tmp_path, stop)
    assert_same(digest(tmp_path, 3), whole)


def test_members_that_saved_unequally_go_on_from_what_all_have(
    tiny_config, tiny_dataset, tmp_path, whole
):
    import shutil

    run(varied(tiny_config), tiny_dataset, tmp_path, stop_after=12)
    shutil.rmtree(tmp_path / "1/checkpoints/12")  # as if killed before this member's save
    run(varied(tiny_config), tiny_dataset, tmp_path)
    assert_same(digest(tmp_path, 3), whole)


def test_a_member_that_diverges_stops_and_the_others_go_on(
    tiny_config, tiny_dataset, tmp_path, whole, caplog
):
    configs, heard = varied(tiny_config, lrs=(2e-4, 1e30, 2e-4)), {}
    run(configs, tiny_dataset, tmp_path, on_divergence=heard.__setitem__)
    assert list(heard) == ["1"]
    assert f"1: the losses or parameters became NaN or infinite in step {heard['1']}" in caplog.text
    assert np.isfinite(read_losses(tmp_path / "1/losses.csv")).all()
    assert len(read_losses(tmp_path / "1/losses.csv")) <= heard["1"]
    found = digest(tmp_path, 1) | {
        (2, name): leaf
        for name, leaf in leaves(restore_run(RunFolder.open(tmp_path / "2"))[1]).items()
    }
    for name, leaf in found.items():
        np.testing.assert_array_equal(leaf, whole[name], err_msg=str(name))
    # Longer, it goes on without that member, to the same bits as if asked for at once.
    longer = [replace(config, epochs=4) for config in configs]
    states = run(longer, tiny_dataset, tmp_path, diverged=heard)
    assert states[0].step == 24
    assert restore_run(RunFolder.open(tmp_path / "2"))[1].step == 24


def test_if_all_diverge_it_is_an_error(tiny_config, tiny_dataset):
    members = [
        Member(
            str(i), replace(tiny_config, seed=i, optimizer=replace(tiny_config.optimizer, lr=lr))
        )
        for i, lr in enumerate((1e30, 1e31))
    ]
    with pytest.raises(DivergenceError, match="all members have diverged"):
        train_members(members, tiny_dataset)


def test_members_of_other_sizes_are_refused(tiny_config, tiny_dataset):
    other = replace(tiny_config, model=replace(tiny_config.model, latent_dim=6))
    with pytest.raises(ConfigError, match="differ in model.latent_dim: 5 -> 6"):
        train_members([Member("a", tiny_config), Member("b", other)], tiny_dataset)
