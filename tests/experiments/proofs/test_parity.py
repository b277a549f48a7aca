"""The library's step against PyTorch's, number by number, on stored steps of small networks.

Needs no PyTorch: tests/golden/make_parity.py stored the values. test_parity_live.py runs PyTorch.
"""

import jax
import numpy as np
import pytest

from cgan_jax.config import ModelConfig, TrainConfig
from cgan_jax.data.sources import Batch
from cgan_jax.interop import discriminator_from_torch, generator_from_torch
from cgan_jax.training.gan import GAN
from experiments.proofs import parity
from experiments.proofs.parity import IDLE
from experiments.proofs.trajectory import Noise, Step, differences, observe, with_arrays
from tests.helpers import ROOT
from tests.replay import replay_step

MODEL = ModelConfig(
    n_classes=3,
    latent_dim=5,
    img_size=3,
    channels=2,
    generator_widths=(6, 8, 8),
    discriminator_widths=(8, 8, 8),
)
N_STEPS = 6

BOUNDS = {
    # Rounding: 53 bits on both sides, some ten operations deep, six steps long.
    "float64": {
        "D loss": 1e-14,
        "G loss": 1e-14,
        "fakes": 1e-14,
        "gradients": 1e-14,
        "parameters": 1e-12,
        "first moments": 1e-14,
        "second moments": 1e-14,
        "running means": 1e-12,
        "running variances": 1e-14,
        # The true gradient is zero; Adam divides what rounding leaves of it by its own size.
        f"parameters, {IDLE}": 1e-11,
        f"gradients, {IDLE}": 1e-15,
        f"first moments, {IDLE}": 1e-15,
        f"second moments, {IDLE}": 1e-30,
    },
    # 24 bits against PyTorch's 53. A parameter whose gradient is about Adam's epsilon, 1e-8, moves
    # by a share of 2e-4 that rounding decides.
    "float32": {
        "D loss": 1e-6,
        "G loss": 1e-6,
        "fakes": 1e-6,
        "gradients": 1e-6,
        "parameters": 5e-5,
        "first moments": 1e-6,
        "second moments": 1e-7,
        "running means": 1e-4,
        "running variances": 1e-6,
        # Up to Adam's whole step of 2e-4 in each of the six, and the running mean goes with them.
        f"parameters, {IDLE}": 6 * 2e-4,
        f"gradients, {IDLE}": 1e-6,
        f"first moments, {IDLE}": 1e-6,
        f"second moments, {IDLE}": 1e-12,
    },
}


@pytest.fixture(scope="module")
def golden():
    with np.load(ROOT / "tests/golden/parity_tiny.npz") as arrays:
        return dict(arrays)


def arrays_of(golden, net, kind, at):
    """One kind of arrays of a network, by PyTorch's names, at one place along the steps."""
    prefix = f"{net}.{kind}."
    arrays = {name.removeprefix(prefix): golden[name][at] for name in golden if prefix in name}
    assert arrays or (net, kind) == ("D", "buffer")
    return arrays


def trees(golden, kind, at, part="params"):
    """Both networks' trees with one kind of arrays; 0 is before the first step."""

    def tree(net, convert):
        arrays = arrays_of(golden, net, kind, at) | arrays_of(golden, net, "buffer", at)
        return convert(arrays, MODEL).get(part, {})

    return {"gen": tree("G", generator_from_torch), "disc": tree("D", discriminator_from_torch)}


def moments(golden, kind, step):
    """Adam's moments after a step; before the first they are zero."""
    first = trees(golden, kind, max(step, 0))
    return first if step >= 0 else jax.tree.map(np.zeros_like, first)


def weights(golden, at):
    """Both networks' parameters, and their BatchNorm statistics."""
    return trees(golden, "param", at), trees(golden, "param", at, "batch_stats")


def theirs(golden, step, like):
    """What PyTorch computed in a step; its gradients come out of its first moments."""
    old, mu = (moments(golden, "exp_avg", i) for i in (step - 1, step))
    nu = moments(golden, "exp_avg_sq", step)
    return Step(
        losses=(golden["d_loss"][step], golden["g_loss"][step]),
        fakes=golden[f"fakes.{step}"],
        grads=jax.tree.map(lambda before, after: 2 * after - before, old, mu),
        state=with_arrays(like, *weights(golden, step + 1), mu, nu),
    )


def replay(golden, dtype):
    """The same steps by the library: the differences after each."""
    gan = GAN.from_config(TrainConfig(model=MODEL))
    # Unoptimised code compiles in half the time; test_parity_live.py has a run's own.
    options = {"xla_backend_optimization_level": 0}
    step = jax.jit(replay_step, static_argnames="gan", compiler_options=options)
    zeros = moments(golden, "exp_avg", -1)
    arrays = *weights(golden, 0), zeros, zeros
    cast = jax.tree.map(lambda leaf: leaf.astype(dtype), arrays)
    state = with_arrays(jax.jit(gan.init, compiler_options=options)(jax.random.key(0)), *cast)
    steps = []
    for i in range(N_STEPS):
        batch = Batch(golden[f"images.{i}"], golden[f"labels.{i}"])
        masks = tuple(tuple(layers) for layers in golden[f"masks.{i}"])
        noise = Noise(golden[f"z.{i}"].astype(dtype), golden[f"fake_labels.{i}"], masks)
        before = state
        state, losses = step(gan, before, batch, noise)
        ours = observe(gan, before, state, losses, noise)
        leaves = jax.tree.leaves((ours.grads, state.gen.variables, state.disc.variables))
        assert {leaf.dtype for leaf in leaves} == {np.dtype(dtype)}
        # Were anything of ours left in theirs, it would equal ours.
        unknown = jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan), state)
        steps.append(differences(ours, theirs(golden, i, unknown)))
    return steps


@pytest.fixture(scope="module", params=[pytest.param("float32", marks=pytest.mark.slow), "float64"])
def replayed(request, golden):
    with jax.enable_x64(request.param == "float64"):
        return request.param, replay(golden, request.param)


@pytest.mark.parametrize("what", BOUNDS["float32"])
def test_every_step_matches_pytorch(replayed, what):
    """Losses, fakes, gradients, parameters, moments and statistics, after each of six steps; the
    fourth batch is smaller."""
    dtype, steps = replayed
    for step, gaps in enumerate(steps):
        assert gaps[what] <= BOUNDS[dtype][what], f"step {step}"


def test_bounds_name_all_that_is_compared(replayed):
    dtype, steps = replayed
    assert steps[0].keys() - {"gradients, relative"} == BOUNDS[dtype].keys()


def test_first_gradients_agree_relative_to_their_size(replayed):
    dtype, steps = replayed
    assert steps[0]["gradients, relative"] <= {"float32": 1e-5, "float64": 1e-13}[dtype]


def test_stored_steps_change_every_array(golden):
    """In each step, so that a network which does not train would be noticed."""
    for name, array in golden.items():
        if name[:2] in ("G.", "D."):
            moves = np.diff(array.astype(float), axis=0)
            assert all(move.any() for move in moves), name
    sizes = [len(golden[f"labels.{i}"]) for i in range(N_STEPS)]
    assert sizes == [8, 8, 8, 5, 8, 8]


@pytest.mark.parametrize(
    ("outliers", "times", "broken"), [(0, 1, False), (9, 1, False), (11, 1, True), (0, 20, True)]
)
def test_float32_rows_compare_the_median_step_with_pytorchs_rounding(outliers, times, broken):
    """A gradient that jumps in some of 20 steps breaks no row; a systematic difference does."""
    rounding = {f"{what}, {parity.ALONE}": 1e-6 for what in parity.FLOAT32}
    normal = dict.fromkeys(parity.FLOAT32, times * 1e-6)
    outlier = dict.fromkeys(parity.FLOAT32, 1e-3)
    steps = [(outlier if i < outliers else normal) | rounding for i in range(20)]
    rows = [row for row in parity.median(steps, 20) if row.what in parity.FLOAT32]
    assert [row.ok for row in rows] == [not broken] * len(parity.FLOAT32)
