"""Several runs at once: each member equals its own single run, and resumes like one."""

import contextlib
import shutil
import signal
from dataclasses import replace

import jax
import numpy as np
import pytest

from cgan_jax.config import OptimizerConfig
from cgan_jax.errors import ConfigError, DivergenceError
from cgan_jax.reporting.callbacks import LossesTable
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.restore import restore_run
from cgan_jax.runs.tables import read_losses
from cgan_jax.training import spans
from cgan_jax.training.callbacks import Callback
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import train
from cgan_jax.training.sweep import Member, train_members
from tests.helpers import StopAfter, first_fast


@pytest.fixture(scope="module")
def config(tiny_config):
    """Networks with one hidden layer less, which compile faster."""
    shallow = replace(tiny_config.model, generator_widths=(8, 16), discriminator_widths=(16, 16))
    return replace(tiny_config, model=shallow)


def varied(config, lrs=(2e-4, 1e-3), b1s=(0.5, 0.9)):
    """Two configurations that differ in seed, learning rate and beta1."""
    return [
        replace(config, seed=i, optimizer=replace(config.optimizer, lr=lr, b1=b1))
        for i, (lr, b1) in enumerate(zip(lrs, b1s, strict=True))
    ]


class Recorder(Callback):
    """Keeps the losses, and the state after the last epoch."""

    def __init__(self):
        self.losses = []

    def on_span_end(self, span):
        self.losses.append(span.losses)

    def on_epoch_end(self, epoch):
        self.state = jax.tree.map(np.array, epoch.state)


def leaves(state):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(state)}


# The gradient of a bias before a BatchNorm is zero up to rounding, which Adam turns into whole
# steps; the running mean follows the bias.
DRIFTING = "['hidden_1']['bias']", "['batch_norm_1']['mean']"


def assert_close(one, other, ignored=(), **bounds):
    one, other = leaves(one), leaves(other)
    assert one.keys() == other.keys()
    for name in one:
        if not name.endswith(ignored):
            np.testing.assert_allclose(one[name], other[name], err_msg=name, **bounds)


def average(average, variables, step):
    return jax.tree.map(lambda a, v: 0.9 * a + 0.1 * v, average, variables)


from_config = GAN.from_config


@pytest.mark.parametrize(
    ("vmap", "extras"), first_fast((True, False), (True, True), (False, True), (False, False))
)
def test_members_equal_their_single_runs(config, tiny_dataset, vmap, extras, monkeypatch):
    """Within the float32 rounding of 18 steps; see also test_numerics.py. The extras: an optimizer
    of the discriminator's own, which is not varied, and an average of the generator."""
    if extras:
        config = replace(config, disc_optimizer=OptimizerConfig(lr=5e-4, b1=0.3, b2=0.9))
        averaging = staticmethod(lambda config: replace(from_config(config), average=average))
        monkeypatch.setattr(GAN, "from_config", averaging)
    configs = varied(config)
    recorders, means = [Recorder() for _ in configs], Recorder()
    members = [
        Member(str(i), *pair)
        for i, pair in enumerate(zip(configs, [[r] for r in recorders], strict=True))
    ]
    states = train_members(members, tiny_dataset, callbacks=[means], vmap=vmap)
    for config, recorder, state in zip(configs, recorders, states, strict=True):
        single = Recorder()
        train(GAN.from_config(config), config, tiny_dataset, callbacks=[single])
        losses = np.concatenate(recorder.losses)
        assert losses.shape == (18, 2)
        np.testing.assert_allclose(losses, np.concatenate(single.losses), atol=1e-5)
        assert_close(recorder.state, single.state, DRIFTING, atol=1e-4)
        assert_close(state, recorder.state, rtol=0)
        assert state.step == 18
        assert (state.average is not None) == extras
    np.testing.assert_allclose(
        np.concatenate(means.losses),
        np.mean([np.concatenate(recorder.losses) for recorder in recorders], axis=0),
        rtol=1e-6,
    )
    assert not np.allclose(recorders[0].losses[-1], recorders[1].losses[-1])


@pytest.mark.slow
@pytest.mark.usefixtures("as_outside_of_tests")
def test_sequential_seeds_have_the_bits_of_single_runs(config, tiny_dataset, monkeypatch):
    """Though their data are shuffled in blocks, which hold fewer batches of several runs."""
    configs = [replace(config, seed=seed) for seed in (3, 4)]
    members = [Member(str(config.seed), config) for config in configs]
    with monkeypatch.context() as patch:
        patch.setattr(spans, "SHUFFLED_BYTES", 4 * tiny_dataset.images[:4].nbytes)
        states = train_members(members, tiny_dataset, vmap=False)
    for config, state in zip(configs, states, strict=True):
        assert_close(state, train(GAN.from_config(config), config, tiny_dataset), rtol=0)


class CtrlCAfter(StopAfter):
    """Sends Ctrl-C after so many steps, instead of asking for a stop."""

    def __call__(self):
        if self.left <= 0:
            signal.raise_signal(signal.SIGINT)
        return False


def run(configs, dataset, folder, stop=None, **more):
    """Train in one folder per member."""
    stop = stop or StopAfter(10**9)
    members, stores = [], []
    for i, config in enumerate(configs):
        own = RunFolder.start(folder / str(i), config, dataset.class_names)
        stores.append(Checkpoints(own.checkpoints))
        members.append(Member(str(i), config, [LossesTable(own)], stores[-1]))
    try:
        return train_members(
            members, dataset, callbacks=[stop], checkpoint_every=1, should_stop=stop, **more
        )
    finally:
        for store in stores:
            store.__exit__(None, None, None)


def digest(folder, n=2):
    """The results of the first `n` members, by name."""
    arrays = {}
    for i in range(n):
        own = RunFolder.open(folder / str(i))
        arrays |= {(i, name): leaf for name, leaf in leaves(restore_run(own)[1]).items()}
        arrays[i, "losses"] = read_losses(own.losses)
    return arrays


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=str(name))


@pytest.fixture(scope="module")
def uninterrupted(config, tiny_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(varied(config), tiny_dataset, folder)
    return digest(folder)


@pytest.mark.parametrize("stops", [[(StopAfter, 1)], [(CtrlCAfter, 8), (StopAfter, 3)]])
def test_stopped_sweep_resumes_to_the_same_bits(
    config, tiny_dataset, tmp_path, uninterrupted, stops
):
    for kind, steps in (*stops, (StopAfter, 10**9)):
        interrupted = kind is CtrlCAfter
        with pytest.raises(KeyboardInterrupt) if interrupted else contextlib.nullcontext():
            run(varied(config), tiny_dataset, tmp_path, kind(steps))
    assert_same(digest(tmp_path), uninterrupted)


def test_members_resume_from_the_newest_step_of_all(config, tiny_dataset, tmp_path, uninterrupted):
    run(varied(config), tiny_dataset, tmp_path, StopAfter(12))
    shutil.rmtree(tmp_path / "1/checkpoints/12")  # as if killed before this member's save
    run(varied(config), tiny_dataset, tmp_path)
    assert_same(digest(tmp_path), uninterrupted)


def test_diverged_member_stops_and_the_others_continue(
    config, tiny_dataset, tmp_path, uninterrupted, caplog
):
    configs, diverged = varied(config, lrs=(2e-4, 1e30)), {}
    run(configs, tiny_dataset, tmp_path, on_divergence=diverged.__setitem__)
    assert list(diverged) == ["1"]
    step = diverged["1"]
    assert f"1: the losses or parameters became NaN or infinite in step {step}" in caplog.text
    assert np.isfinite(read_losses(tmp_path / "1/losses.csv")).all()
    assert len(read_losses(tmp_path / "1/losses.csv")) <= step
    healthy = digest(tmp_path, 1)
    assert_same(healthy, {name: uninterrupted[name] for name in healthy})
    # Extended, the sweep continues without that member.
    longer = [replace(config, epochs=4) for config in configs]
    states = run(longer, tiny_dataset, tmp_path, diverged=diverged)
    assert states[0].step == 24
    assert restore_run(RunFolder.open(tmp_path / "0"))[1].step == 24


def test_error_if_all_members_diverge(config, tiny_dataset):
    configs = varied(config, lrs=(1e30, 1e31))
    members = [Member(str(i), config) for i, config in enumerate(configs)]
    with pytest.raises(DivergenceError, match="all members have diverged"):
        train_members(members, tiny_dataset)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"model": {"latent_dim": 6}}, "model.latent_dim: 5 -> 6"),
        ({"disc_optimizer": OptimizerConfig(lr=1e-3)}, "disc_optimizer.lr: 0.0002 -> 0.001"),
    ],
)
def test_members_that_one_program_cannot_train_are_refused(
    config, tiny_dataset, changes, difference
):
    if "model" in changes:
        changes = {"model": replace(config.model, **changes["model"])}
    members = [Member("a", config), Member("b", replace(config, **changes))]
    with pytest.raises(ConfigError, match=f"differ in {difference}"):
        train_members(members, tiny_dataset)
