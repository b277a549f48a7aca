"""How much jit, vmap, donation, precision and several devices change a step's numbers: a table.

jit against no jit is in test_step.py, chunks against single steps in test_chunks.py. Against
PyTorch: test_parity.py.
"""

import json
import logging
import os
import subprocess
import sys
from dataclasses import asdict, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import random

from cgan_jax.data import Batch, Dataset, DatasetSource
from cgan_jax.losses import LOSSES
from cgan_jax.sampling.generator import TrainedGenerator
from cgan_jax.training.chunks import ChunkRunner
from cgan_jax.training.gan import GAN
from cgan_jax.training.step import run_keys, train_step
from experiments.proofs.trajectory import draw_noise, feeds_batch_norm
from tests.helpers import ROOT, first_fast
from tests.replay import replay_step

N_STEPS, BATCH_SIZE, SEEDS = 3, 4, (0, 1, 2)
FAST_COMPILE = {"xla_backend_optimization_level": 0}  # half the time to compile


class Setting(NamedTuple):
    """The common setting of all variants."""

    config: object
    gan: GAN
    init: object
    step: object
    dataset: Dataset
    data: Batch

    def batch(self, i):
        rows = slice(i * BATCH_SIZE, (i + 1) * BATCH_SIZE)
        return Batch(self.data.images[rows], self.data.labels[rows])

    def key(self, i, seed=0):
        return random.fold_in(run_keys(seed).steps, i)


@pytest.fixture(scope="module")
def setting(tiny_config, tiny_dataset):
    """Networks of one hidden layer less than the other tests', which compile in half the time."""
    shallow = replace(tiny_config.model, generator_widths=(8, 16), discriminator_widths=(16, 16))
    config = replace(tiny_config, model=shallow)
    gan = GAN.from_config(config)
    data = Batch(jnp.asarray(tiny_dataset.images), jnp.asarray(tiny_dataset.labels))
    step = jax.jit(train_step, static_argnames="gan", compiler_options=FAST_COMPILE)
    return Setting(config, gan, jax.jit(gan.init), step, tiny_dataset, data)


def compiled(call, caplog):
    """The names of the programs that XLA compiles during a call."""
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        call()
    return [r.getMessage() for r in caplog.records if "Finished XLA compilation" in r.getMessage()]


def call_init(setting, i):
    setting.init(random.key(i))


def call_train_step(setting, i):
    state = setting.init(run_keys(0).init)
    for _ in range(1 + i):
        state, _ = setting.step(setting.gan, state, setting.batch(i), setting.key(i))


def call_chunks(setting, i):
    keys = run_keys(i)
    source = DatasetSource(setting.dataset, BATCH_SIZE, keys.order)
    runner = ChunkRunner(setting.gan, source, keys.steps, setting.config)
    state = runner.run(setting.init(keys.init), 0, 1 + i).state
    runner.run(state, 1 + i, 2)


def call_generate(setting, i):
    variables = setting.init(run_keys(i).init).gen.variables
    made = TrainedGenerator(setting.gan.generator, variables, ("a", "b", "c"), 0)
    made.generate(["a", "c", "b"][: 1 + i], seed=i)


@pytest.mark.parametrize("call", [call_init, call_train_step, call_chunks, call_generate])
def test_second_call_compiles_nothing(setting, caplog, call):
    """For any seed, number of steps and number of labels; on a fresh state and on one that a step
    returned. It comes before the other tests, whose programs would hide a compilation."""
    call(setting, 0)
    assert compiled(lambda: call(setting, 1), caplog) == []
    assert compiled(lambda: call(setting, 2), caplog) == []


def test_compilations_are_detected(caplog):
    assert len(compiled(lambda: jax.jit(lambda x: x + len(caplog.messages))(1), caplog)) == 1


def numbers(states_and_losses):
    """The numbers to compare: each step's losses, and both gradients' running means after the last.

    Not the parameters: if a gradient is zero up to rounding, as for a bias before a BatchNorm, Adam
    turns the rounding into whole steps.
    """
    state = states_and_losses[-1][0]
    losses = [np.stack(losses, axis=-1) for _, losses in states_and_losses]
    moments = {"gen": state.gen.opt_state[0].mu, "disc": state.disc.opt_state[0].mu}
    arrays = {"losses": np.stack(losses, axis=-2)} | flatten_dict(moments, sep="/")
    return jax.tree.map(np.asarray, arrays)


def plain(setting, seed=0):
    """The reference: one jitted step after another."""
    state, taken = setting.init(run_keys(seed).init), []
    for i in range(N_STEPS):
        state, losses = setting.step(setting.gan, state, setting.batch(i), setting.key(i, seed))
        taken.append((state, losses))
    return numbers(taken)


def donated(setting, tmp_path):
    step = jax.jit(
        train_step, static_argnames="gan", donate_argnames="state", compiler_options=FAST_COMPILE
    )
    state, taken = setting.init(run_keys(0).init), []
    for i in range(N_STEPS):
        before = state
        state, losses = step(setting.gan, before, setting.batch(i), setting.key(i))
        assert before.gen.params["output"]["kernel"].is_deleted()
        taken.append((state, losses))
    return plain(setting), numbers(taken)


def vmapped(setting, tmp_path):
    def step(state, batch, key):
        return train_step(setting.gan, state, batch, key)

    every_seed = jax.jit(jax.vmap(step, in_axes=(0, None, 0)), compiler_options=FAST_COMPILE)
    states = [setting.init(run_keys(seed).init) for seed in SEEDS]
    state, taken = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states), []
    for i in range(N_STEPS):
        keys = jnp.stack([setting.key(i, seed) for seed in SEEDS])
        state, losses = every_seed(state, setting.batch(i), keys)
        taken.append((state, losses))
    alone = [plain(setting, seed) for seed in SEEDS]
    assert np.ptp([one["losses"][0, 0] for one in alone]) > 1e-3
    return {name: np.stack([one[name] for one in alone]) for name in alone[0]}, numbers(taken)


def in_float64(setting, tmp_path):
    """With float32 noise, since the same key gives other draws in float64."""
    state, taken = setting.init(run_keys(0).init), []
    noise = [draw_noise(setting.gan, setting.batch(i), setting.key(i)) for i in range(N_STEPS)]
    with jax.enable_x64(True):
        state, noise = widened(state), widened(noise)
        for i in range(N_STEPS):
            state, losses = step64(setting.gan, state, setting.batch(i), noise[i])
            taken.append((state, losses))
        wide = numbers(taken)
    assert {array.dtype for array in wide.values()} == {np.dtype("float64")}
    return plain(setting), wide


step64 = jax.jit(replay_step, static_argnames="gan", compiler_options=FAST_COMPILE)


def widened(tree):
    """float32 leaves as float64."""

    def widen(leaf):
        return leaf.astype("float64") if leaf.dtype == np.dtype("float32") else leaf

    return jax.tree.map(lambda leaf: jnp.asarray(widen(np.asarray(leaf))), tree)


def sharded(setting, tmp_path):
    """In a new process, since the number of devices is fixed when JAX starts."""
    np.savez(tmp_path / "data.npz", **setting.data._asdict())
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    script = [sys.executable, "-c", SHARDED, json.dumps(asdict(setting.config)), str(tmp_path)]
    subprocess.run(
        script,
        check=True,
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )
    with np.load(tmp_path / "sharded.npz") as arrays:
        return plain(setting), dict(arrays)


SHARDED = f"""
import json, sys
import jax, numpy as np
from flax.traverse_util import flatten_dict
from jax import random
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from cgan_jax.config import from_dict
from cgan_jax.data import Batch
from cgan_jax.training.gan import GAN
from cgan_jax.training.step import run_keys, train_step

gan, folder, keys = GAN.from_config(from_dict(json.loads(sys.argv[1]))), sys.argv[2], run_keys(0)
mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
state = jax.device_put(jax.jit(gan.init)(keys.init), NamedSharding(mesh, PartitionSpec()))
arrays = np.load(folder + "/data.npz")
step, rows = jax.jit(train_step, static_argnames="gan", compiler_options={FAST_COMPILE}), []
for i in range({N_STEPS}):
    own = slice(i * {BATCH_SIZE}, (i + 1) * {BATCH_SIZE})
    batch = Batch(arrays["images"][own], arrays["labels"][own])
    batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("batch")))
    assert [s.data.shape[0] for s in batch.images.addressable_shards] == [{BATCH_SIZE} // 2] * 2
    state, losses = step(gan, state, batch, random.fold_in(keys.steps, i))
    rows.append(np.stack(losses))
moments = {{"gen": state.gen.opt_state[0].mu, "disc": state.disc.opt_state[0].mu}}
np.savez(folder + "/sharded.npz", losses=np.stack(rows), **flatten_dict(moments, sep="/"))
"""


TABLE = [
    (donated, 0.0, "the same arithmetic: only the memory is used again"),
    (vmapped, 1e-6, "products of all seeds at once add up in another order"),
    (in_float64, 1e-6, "24 bits of mantissa against 53"),
    (sharded, 1e-6, "each device adds up its half of the batch, then the two are added"),
]


@pytest.mark.parametrize(
    ("variant", "bound", "reason"),
    first_fast(*TABLE),
    ids=[variant.__name__ for variant, *_ in TABLE],
)
def test_step_is_the_same(setting, tmp_path, variant, bound, reason):
    """Losses and gradients of three steps, both ways, are equal up to the bound."""
    one, other = variant(setting, tmp_path)
    assert one.keys() == other.keys()
    for name, expected in one.items():
        assert expected.shape == other[name].shape
        gap = np.abs(expected - other[name]).max()
        assert gap <= bound, f"{name}: {gap:.1e}, though {reason}"


@pytest.mark.parametrize("net", ["gen", "disc"])
def test_gradients_equal_finite_differences(setting, net):
    """In float64, for each array along a random direction: (L(p + hv) - L(p - hv)) / 2h = g . v.

    g comes from Adam's first moment. The error of a central difference is h^2 and rounding / h.
    """
    state = setting.init(run_keys(0).init)
    noise = draw_noise(setting.gan, setting.batch(0), setting.key(0))
    rng, h = np.random.default_rng(0), 1e-6
    with jax.enable_x64(True):
        state, noise = widened(state), widened(noise)
        params = getattr(state, net).params

        def step(params):
            now = state.replace(**{net: getattr(state, net).replace(params=params)})
            return step64(setting.gan, now, setting.batch(0), noise)

        def loss(params):
            losses = step(params)[1]
            return float(losses.g_loss if net == "gen" else losses.d_loss)

        grads = flatten_dict(getattr(step(params)[0], net).opt_state[0].mu, sep="/")
        for path, mu in grads.items():
            direction = rng.standard_normal(mu.shape)
            direction /= np.linalg.norm(direction)

            def moved(by, path=path, direction=direction):
                flat = flatten_dict(params, sep="/")
                flat[path] = flat[path] + by * direction
                return unflatten_dict(flat, sep="/")

            slope = (loss(moved(h)) - loss(moved(-h))) / (2 * h)
            projected = np.sum(2 * mu * direction)
            assert abs(slope - projected) < 1e-9, path
            assert feeds_batch_norm(path, grads) or abs(slope) > 1e-6, path


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_no_nan_at_extreme_scores(name, player):
    """Losses and gradients stay finite up to 1e18, whose square float32 just holds; beyond it
    they may be infinite, which the training loop reports, but never NaN."""
    loss = getattr(LOSSES[name], player)
    sizes = np.float32([0, 1e-38, 1, 1e2, 1e4, 1e18, 1e30, 3e38])
    scores = np.concatenate([sizes, -sizes])
    n = 1 if player == "generator" and not LOSSES[name].paired else 2
    pairs = [jnp.asarray(grid.ravel()) for grid in np.meshgrid(*[scores] * n)]

    def total(pair):
        return loss(*pair).sum()

    for values in (loss(*pairs), *jax.grad(total)(tuple(pairs))):
        assert not np.isnan(values).any()
        moderate = np.max(np.abs(pairs), axis=0) <= 1e18
        assert np.isfinite(values[moderate]).all()


@pytest.mark.parametrize("offset", [1e6, -1e6, 1e12])
def test_state_stays_finite_at_extreme_scores(setting, offset):
    state = setting.init(run_keys(0).init)
    params = state.disc.params
    params = params | {
        "output": params["output"] | {"bias": jnp.full_like(params["output"]["bias"], offset)}
    }
    state = state.replace(disc=state.disc.replace(params=params))
    after, losses = setting.step(setting.gan, state, setting.batch(0), setting.key(0))
    assert losses.d_loss > 1e11
    for path, leaf in jax.tree.leaves_with_path((after, losses)):
        assert np.isfinite(leaf).all(), path
