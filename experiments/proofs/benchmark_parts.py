"""What benchmark.py times. Each part returns figures by name, or a Timer."""

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from cgan_jax.config import TrainConfig
from cgan_jax.data import load
from cgan_jax.data.sources import Batch, epoch_order
from cgan_jax.model_config import as_report_model
from cgan_jax.presets import PRESETS
from cgan_jax.sampling.generator import TrainedGenerator
from cgan_jax.training.chunks import run_steps
from cgan_jax.training.gan import GAN, GANState
from cgan_jax.training.step import Losses, run_keys, train_step
from experiments.proofs.bare_run import BareRun
from experiments.proofs.benchmark import PEER, from_proc
from experiments.proofs.processes import Timer

REPORT = PRESETS["report"]
BATCH = REPORT.batch_size
BATCHES, WIDTHS = (64, 256, 1024, 4096), (1, 2, 4)


def training_timer(config: TrainConfig = REPORT, data_dir: Path | None = None) -> Timer:
    """A timer of our training loop: batches are gathered and losses read back chunk by chunk."""
    dataset = load(data_dir=data_dir)
    config = config.for_data(dataset)
    return _run_timer(BareRun(config, dataset), config.penalty.every)


def _run_timer(run: BareRun, penalty_period: int = 1) -> Timer:
    # Warm-up and turn are in one epoch, whose last batch is smaller, and begin with a penalty.
    most = (run.steps_per_epoch - 1) // 2 // penalty_period * penalty_period

    def measure(steps: int) -> float:
        n = max(1, min(steps, most))
        # Compiles the first time; afterwards chunks are as long as in training.
        state, _ = run.take(run.fresh_state(), 0, n)
        return n / _seconds(lambda: run.take(state, n, n))

    return measure


def seeds_timer(n_seeds: int, data_dir: Path | None = None) -> Timer:
    """A timer of many seeds of the report in one program, under vmap: the steps of all of them."""
    gan, dataset = GAN.from_config(), load(data_dir=data_dir)
    images, labels = jnp.asarray(dataset.images), jnp.asarray(dataset.labels)
    most = len(dataset) // BATCH // 2
    keys = jax.jit(jax.vmap(run_keys))(jnp.arange(n_seeds, dtype=jnp.uint32))
    orders = jax.vmap(lambda key: epoch_order(key, 0, len(dataset)))(keys.order)

    @partial(jax.jit, static_argnames="n", donate_argnames="states")
    def take(states: GANState, step: jax.Array, n: int) -> tuple[GANState, Losses]:
        def take_one(state: GANState, key: jax.Array, order: jax.Array) -> tuple[GANState, Losses]:
            rows = jax.lax.dynamic_slice(order, (step * BATCH,), (n * BATCH,)).reshape(n, BATCH)
            return run_steps(gan, state, Batch(images[rows], labels[rows]), key)

        return jax.vmap(take_one)(states, keys.steps, orders)

    init = jax.jit(jax.vmap(gan.init))

    def measure(steps: int) -> float:
        n = max(1, min(steps // n_seeds, most))
        states, _ = take(init(keys.init), 0, n)  # compiles the first time
        jax.block_until_ready(states)
        return n_seeds * n / _seconds(lambda: jax.block_until_ready(take(states, n, n)))

    return measure


def single_steps_timer() -> Timer:
    """A timer of one jitted step after another, each batch from NumPy, each loss read back."""
    gan, keys, dataset = GAN.from_config(), run_keys(0), load()
    step = jax.jit(train_step, static_argnames="gan", donate_argnames="state")
    init, order = jax.jit(gan.init), np.random.default_rng(0).permutation(len(dataset))

    def measure(steps: int) -> float:
        state, began = init(keys.init), 0.0
        for i in range(-20, steps):
            if i == 0:
                began = time.perf_counter()
            rows = order[(i % 900) * BATCH :][:BATCH]
            batch = Batch(jnp.asarray(dataset.images[rows]), jnp.asarray(dataset.labels[rows]))
            state, losses = step(gan, state, batch, random.fold_in(keys.steps, i + 20))
            float(losses.d_loss), float(losses.g_loss)
        return steps / (time.perf_counter() - began)

    return measure


def torch_contestants(*, compiled: bool) -> dict[str, Timer]:
    """The report's loop in PyTorch: as it is, its data item by item, and at PyTorch's best."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    names = torch_variants(device, compiled=compiled)
    return {name: torch_stopwatch(variant, device) for name, variant in names.items()}


def torch_variants(device: str, *, compiled: bool) -> dict[str, str]:
    """The variants of the loop in torch_cgan.py that take part, by their names in the table."""
    variants = {
        PEER: "eager",
        "PyTorch, eager, DataLoader": "dataloader",
        "PyTorch, fused Adam, in memory": "fused",
    }
    if compiled:
        variants["PyTorch, fused Adam, compiled"] = "fused+compile"
    if device == "cuda":
        variants["PyTorch, fused Adam, CUDA graphs"] = "graphs"
    return variants


def torch_stopwatch(variant: str, device: str, data_dir: Path | None = None) -> Timer:
    """Times the report's loop in PyTorch."""
    import torch

    from experiments.proofs.torch_cgan import stopwatch

    if device == "cuda":  # products as JAX computes them there by default
        torch.set_float32_matmul_precision("high")
    dataset = load(data_dir=data_dir)
    return stopwatch(variant, dataset.images, dataset.labels, device)


def products(config: TrainConfig = REPORT) -> Timer:
    """Times the matrix products of a step, at their shapes, in a loop of their own."""
    layers = _layers(config)
    shapes = [((m, i), (i, o), (m, o), (m, o), (i, o), (m, i)) for m, i, o, *_ in layers]

    def body(turn: jax.Array, carry: Any) -> Any:
        one = 1 + 0 * turn.astype(jnp.float32)  # XLA cannot know: it has to multiply each time
        return [
            (x, w, dy, (x * one) @ w, (x * one).T @ dy if k else dw, (dy * one) @ w.T if d else dx)
            for (x, w, dy, _, dw, dx), (*_, k, d) in zip(carry, layers, strict=True)
        ]

    return _times_loop(body, [tuple(map(jnp.ones, layer)) for layer in shapes])


def adam(config: TrainConfig = REPORT) -> Timer:
    """Times a step's two Adams as one, of one vector: it reads four arrays and writes three."""

    def body(_: jax.Array, carry: Any) -> Any:
        p, g, m, v = carry
        m, v = 0.5 * m + 0.5 * g, 0.999 * v + 0.001 * g * g
        return p - 2e-4 * m / (jnp.sqrt(v) + 1e-8), g, m, v

    return _times_loop(body, (jnp.ones(n_weights(config)),) * 4)


def flops(config: TrainConfig = REPORT) -> int:
    """Floating-point operations of a step's products."""
    return sum(2 * m * i * o * (1 + kernel + inputs) for m, i, o, kernel, inputs in _layers(config))


def n_weights(config: TrainConfig = REPORT) -> int:
    """Weights in both networks' layers."""
    return sum(i * o + o for _, i, o, kernel, _ in _layers(config) if kernel)


def _layers(config: TrainConfig) -> list[tuple[int, int, int, bool, bool]]:
    """Rows, in, out; whether the kernel's and the input's gradient are taken."""
    model, batch = as_report_model(config.model), config.batch_size
    gen = (model.latent_dim + 10, *model.generator_widths, 784)
    disc = (784 + 10, *model.discriminator_widths, 1)
    layers = [(batch, i, o, True, i != gen[0]) for i, o in itertools.pairwise(gen)]
    layers += [(batch, i, o, False, True) for i, o in itertools.pairwise(disc)]  # in G's loss
    return layers + [(2 * batch, i, o, True, i != disc[0]) for i, o in itertools.pairwise(disc)]


def sizes() -> Iterator[dict[str, float]]:
    """Training beside the reference arithmetic, for batches and networks of several sizes."""
    model = as_report_model(REPORT.model)
    for times, batch in itertools.product(WIDTHS, BATCHES):
        wider = replace(
            model,
            generator_widths=tuple(times * width for width in model.generator_widths),
            discriminator_widths=tuple(times * width for width in model.discriminator_widths),
        )
        config = replace(REPORT, batch_size=batch, model=wider)
        steps = max(1, round(1e11 / flops(config)))  # a second or two
        contestants = training_timer(config), products(config), adam(config)
        # In turns, and each the best of three: other work can only make it slower.
        turns = [[contestant(steps) for contestant in contestants] for _ in range(3)]
        rate, *parts = map(max, zip(*turns, strict=True))
        ratio = rate * sum(1 / part for part in parts)
        yield {"width": times, "batch": batch, "steps/s": rate, "of arithmetic": ratio}


def _times_loop(body: Callable[[jax.Array, Any], Any], carry: Any) -> Timer:
    """Turns per second of a loop whose buffers stay where they are, as in training."""
    loop = jax.jit(lambda turns, carry: jax.lax.fori_loop(0, turns, body, carry))

    def measure(turns: int) -> float:
        jax.block_until_ready(loop(turns, carry))
        return turns / _seconds(lambda: jax.block_until_ready(loop(turns, carry)))

    return measure


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def startup() -> dict[str, float]:
    """Seconds from the command to the first finished step, compiling and not; and memory."""
    with tempfile.TemporaryDirectory() as folder:
        cold, memory = _first_step(Path(folder), "cold")
        warm, _ = _first_step(Path(folder), "warm")
    return {
        "cold start to the first step, s": cold,
        "warm start, s": warm,
        "peak memory, GiB": memory,
    }


def sampling() -> dict[str, float]:
    """Images per second, in one call for 10,000."""
    trained = fresh_generator()
    labels = np.arange(10_000, dtype=np.int32) % 10
    trained.generate(labels, seed=0)
    seconds = _seconds(lambda: trained.generate(labels, seed=1))
    return {"sampling, images per second": len(labels) / seconds}


def fresh_generator() -> TrainedGenerator:
    """The report's generator before any step, which is as fast as a trained one."""
    gan = GAN.from_config()
    gen = jax.jit(gan.init)(run_keys(0).init).gen
    return TrainedGenerator(gan.generator, gen.variables, tuple(map(str, range(10))), 0)


def data() -> dict[str, float]:
    """Seconds to load the training images, after the first time."""
    load()
    return {"loading the data, s": _seconds(load)}


def programs_in(folder: Path) -> dict[str, str]:
    """The environment in which commands keep their compiled programs in a folder of theirs."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }


def _first_step(folder: Path, name: str) -> tuple[float, float]:
    """Start the main job, and stop it after its first line of losses: seconds, peak GiB."""
    command = [sys.executable, "-u", "-m", "experiments.fashion_cgan", "--log-every", "1"]
    began = time.perf_counter()
    with subprocess.Popen(
        [*command, "--workdir", str(folder / name)],
        env=os.environ | programs_in(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        next((line for line in process.stdout if line.startswith("[Epoch 0/")), None)
        taken = time.perf_counter() - began
        # Not getrusage, which counts the parent's.
        peak = from_proc(f"{process.pid}/status", "VmHWM")
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
    return taken, int(peak.split()[0]) / 2**20 if peak else float("nan")
