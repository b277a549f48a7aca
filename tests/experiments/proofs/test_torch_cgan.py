"""The PyTorch twin: sizes, update order, batches, stopwatch. Needs PyTorch.

Its agreement with cgan_jax is tested in test_parity_live.py.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from experiments.proofs import torch_cgan
from experiments.proofs.torch_cgan import CGAN, Discriminator, Generator
from tests.helpers import ROOT

pytestmark = [pytest.mark.torch, pytest.mark.slow]

BATCH, LATENT, CLASSES, SHAPE = 6, 5, 4, (1, 4, 4)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads that wait for each other on a busy machine take many times as long as one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def small_networks(dropout: float = 0.4) -> tuple[Generator, Discriminator]:
    return (
        Generator(LATENT, CLASSES, widths=(6, 7, 8), img_shape=SHAPE),
        Discriminator(CLASSES, widths=(8, 9, 7), img_shape=SHAPE, dropout=dropout),
    )


class Inputs(NamedTuple):
    """What a training step takes, in its order."""

    real: Tensor
    labels: Tensor
    z: Tensor
    fake_labels: Tensor


def batch(dtype: torch.dtype = torch.float32) -> Inputs:
    return Inputs(
        real=torch.rand(BATCH, *SHAPE, dtype=dtype) * 2 - 1,
        labels=torch.randint(CLASSES, (BATCH,)),
        z=torch.randn(BATCH, LATENT, dtype=dtype),
        fake_labels=torch.randint(CLASSES, (BATCH,)),
    )


def same_parameters(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def keep_masks(passes: int) -> list[list[Tensor]]:
    return [[torch.rand(BATCH, width) < 0.6 for width in (9, 7)] for _ in range(passes)]


@pytest.mark.parametrize(("network", "count"), [(Generator, 1_511_412), (Discriminator, 932_965)])
def test_has_the_reports_parameter_count(network: type[nn.Module], count: int) -> None:
    assert sum(p.numel() for p in network().parameters()) == count


def test_layers_have_the_reports_order() -> None:
    block = ["Linear", "BatchNorm1d", "LeakyReLU"]
    assert [type(m).__name__ for m in Generator().model] == (
        ["Linear", "LeakyReLU"] + block * 3 + ["Linear", "Tanh"]
    )
    block = ["Linear", "Dropout", "LeakyReLU"]
    assert [type(m).__name__ for m in Discriminator().model] == (
        ["Linear", "LeakyReLU"] + block * 2 + ["Linear"]
    )


def test_settings_match_the_report() -> None:
    g, d = Generator(), Discriminator()
    norms = [m for m in g.model if isinstance(m, nn.BatchNorm1d)]
    assert {(m.eps, m.momentum) for m in norms} == {(0.8, 0.1)}
    assert {m.p for m in d.model if isinstance(m, nn.Dropout)} == {0.4}
    slopes = [m.negative_slope for m in (*g.model, *d.model) if isinstance(m, nn.LeakyReLU)]
    assert set(slopes) == {0.2}
    gan = CGAN(g, d)
    for optimizer in (gan.opt_G, gan.opt_D):
        (group,) = optimizer.param_groups
        assert (group["lr"], group["betas"], group["eps"]) == (2e-4, (0.5, 0.999), 1e-8)


def test_label_is_before_the_noise_and_after_the_image() -> None:
    g, d = small_networks()
    b = batch()
    inputs: list[Tensor] = []
    for network in (g, d):
        network.model.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    fake = g(b.z, b.fake_labels)
    d(fake, b.fake_labels)
    assert torch.equal(inputs[0][:, :CLASSES], g.label_emb(b.fake_labels))
    assert torch.equal(inputs[0][:, CLASSES:], b.z)
    assert torch.equal(inputs[1][:, :-CLASSES], fake.flatten(1))
    assert torch.equal(inputs[1][:, -CLASSES:], d.label_embedding(b.fake_labels))


def test_losses_and_updates_equal_a_step_written_out_by_hand() -> None:
    """Two separate gradient computations on copies, neither of which sees the other's update
    before its turn, and dropout masks in the order fakes for G, real, fakes for D."""
    g, d = small_networks()
    g.double(), d.double()
    b = batch(torch.float64)
    masks = keep_masks(passes=3)
    lr = 0.1

    def scores(network: Discriminator, images: Tensor, labels: Tensor, i: int) -> Tensor:
        torch_cgan.inject_dropout_masks(network, [masks[i]])
        return network(images, labels)

    g_ref, d_ref = deepcopy(g), deepcopy(d)
    fake = g_ref(b.z, b.fake_labels)
    g_loss_ref = (scores(d_ref, fake, b.fake_labels, 0) - 1).square().mean()
    g_grads = torch.autograd.grad(g_loss_ref, list(g_ref.parameters()), retain_graph=True)
    d_loss_ref = (
        (scores(d_ref, b.real, b.labels, 1) - 1).square().mean()
        + scores(d_ref, fake.detach(), b.fake_labels, 2).square().mean()
    ) / 2
    d_grads = torch.autograd.grad(d_loss_ref, list(d_ref.parameters()))

    gan = CGAN(g, d)
    gan.opt_G, gan.opt_D = (torch.optim.SGD(net.parameters(), lr) for net in (g, d))
    torch_cgan.inject_dropout_masks(d, masks)
    d_loss, g_loss = gan.train_step(*b)

    torch.testing.assert_close(d_loss, d_loss_ref.detach())
    torch.testing.assert_close(g_loss, g_loss_ref.detach())
    for network, reference, grads in ((g, g_ref, g_grads), (d, d_ref, d_grads)):
        for after, before, grad in zip(
            network.parameters(), reference.parameters(), grads, strict=True
        ):
            torch.testing.assert_close(after, before - lr * grad)


def test_d_learns_from_the_fakes_that_g_was_updated_on() -> None:
    g, d = small_networks()
    b = batch()
    old_fakes = deepcopy(g)(b.z, b.fake_labels)
    passes: list[tuple[Tensor, Tensor]] = []
    d.register_forward_pre_hook(lambda _, args: passes.append((args[0].detach().clone(), args[1])))
    CGAN(g, d).train_step(*b)

    (for_g, for_g_labels), (real, real_labels), (for_d, for_d_labels) = passes
    assert torch.equal(for_g, old_fakes) and torch.equal(for_d, old_fakes)
    assert torch.equal(real, b.real) and torch.equal(real_labels, b.labels)
    assert torch.equal(for_g_labels, b.fake_labels)
    assert torch.equal(for_d_labels, b.fake_labels)
    assert not torch.equal(g(b.z, b.fake_labels), old_fakes)


@pytest.mark.parametrize("frozen", ["generator", "discriminator"])
def test_each_optimizer_moves_its_own_network_only(frozen: str) -> None:
    g, d = small_networks()
    gan = CGAN(g, d)
    (gan.opt_G if frozen == "generator" else gan.opt_D).param_groups[0]["lr"] = 0.0
    g_before, d_before = deepcopy(g), deepcopy(d)
    gan.train_step(*batch())
    assert same_parameters(g, g_before) == (frozen == "generator")
    assert same_parameters(d, d_before) == (frozen == "discriminator")


def test_step_trains_in_training_mode_whatever_the_mode_before() -> None:
    g, d = small_networks()
    g.eval(), d.eval()
    torch_cgan.inject_dropout_masks(d, keep_masks(passes=3))
    b = batch()
    CGAN(g, d).train_step(*b)
    (norm, _) = (m for m in g.model if isinstance(m, nn.BatchNorm1d))
    assert norm.num_batches_tracked == 1
    with pytest.raises(RuntimeError, match="no dropout mask left"):
        d(b.real, b.labels)


def test_injected_masks_replace_random_ones() -> None:
    _, d = small_networks()
    images, labels = batch().real, torch.zeros(BATCH, dtype=torch.int64)
    names = list(d.state_dict())
    ones = [torch.ones(BATCH, width) for width in (9, 7)]
    no_scaling = deepcopy(d.eval())(images, labels)
    torch_cgan.inject_dropout_masks(d, [ones])
    assert list(d.state_dict()) == names
    assert torch.equal(d(images, labels), no_scaling)
    assert not torch.equal(d.train()(images, labels), no_scaling)
    with pytest.raises(RuntimeError, match="no dropout mask left"):
        d(images, labels)

    d = Discriminator(CLASSES, widths=(8, 2), img_shape=SHAPE, dropout=0.4)
    masks = [[torch.tensor([[True, False]])], [torch.ones(1, 3)]]
    torch_cgan.inject_dropout_masks(d, masks)
    (layer,) = (m for m in d.model if isinstance(m, nn.Dropout))
    torch.testing.assert_close(layer(torch.tensor([[3.0, 3.0]])), torch.tensor([[5.0, 0.0]]))
    with pytest.raises(RuntimeError, match=r"\(1, 3\) for \(1, 2\)"):
        layer(torch.ones(1, 2))


def test_fused_adam_takes_the_same_steps() -> None:
    g, d = small_networks(dropout=0.0)
    g2, d2 = deepcopy(g), deepcopy(d)
    plain, fused = CGAN(g, d), CGAN(g2, d2, fused=True)
    optimizers = plain.opt_G, plain.opt_D, fused.opt_G, fused.opt_D
    assert [o.defaults["fused"] for o in optimizers] == [False, False, True, True]
    b = batch()
    for _ in range(3):
        losses = plain.train_step(*b)
        losses2 = fused.train_step(*b)
        torch.testing.assert_close(losses, losses2, rtol=1e-5, atol=1e-6)


def test_epoch_of_the_report_is_937_batches_of_64_and_one_of_32() -> None:
    images, labels = torch.arange(60_000.0).view(-1, 1, 1, 1), torch.arange(60_000)
    batches = list(torch_cgan.memory_batches(images, labels))
    assert [len(y) for _, y in batches] == [64] * 937 + [32]
    assert all(torch.equal(x.flatten(), y.float()) for x, y in batches)
    order = torch.cat([y for _, y in batches])
    assert not torch.equal(order, labels) and torch.equal(order.sort().values, labels)
    again = torch.cat([y for _, y in torch_cgan.memory_batches(images, labels)])
    assert not torch.equal(order, again)


@pytest.mark.parametrize("shape", [(50, 4, 5), (50, 4, 5, 3)])
def test_both_loops_serve_the_same_images_from_minus_one_to_one(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images[0], images[1] = 0, 255
    labels = np.arange(50)
    scaled = torch_cgan.scale_images(images)
    channels_first = images.reshape(50, 4, 5, -1).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(scaled, channels_first / 127.5 - 1, atol=1e-6)
    assert (scaled[0] == -1).all() and (scaled[1] == 1).all()

    batches = list(torch_cgan.make_loader(images, labels, batch_size=8))
    assert [len(y) for _, y in batches] == [8] * 6 + [2]
    order = torch.cat([y for _, y in batches])
    assert not torch.equal(order, torch.arange(50))
    assert order.sort().values.tolist() == list(range(50))
    torch.testing.assert_close(torch.cat([x for x, _ in batches]), scaled[order], atol=1e-6, rtol=0)


def test_epoch_returns_each_batchs_losses_and_draws_fresh_noise() -> None:
    g, d = small_networks()
    drawn: list[tuple[Tensor, Tensor]] = []
    g.register_forward_pre_hook(lambda _, args: drawn.append(args))
    x, y = torch.rand(20, *SHAPE), torch.randint(CLASSES, (20,))
    losses = CGAN(g, d).train_epoch(torch_cgan.memory_batches(x, y, batch_size=8))
    assert np.shape(losses) == (3, 2) and np.isfinite(losses).all()
    assert [z.shape for z, _ in drawn] == [(8, LATENT), (8, LATENT), (4, LATENT)]
    assert not torch.equal(drawn[0][0], drawn[1][0])
    assert all((labels >= 0).all() and (labels < CLASSES).all() for _, labels in drawn)


@pytest.mark.parametrize("variant", ["eager", "dataloader", "fused"])
def test_stopwatch_counts_steps_per_second(
    variant: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fused: list[bool] = []
    fetched: list[int] = []
    seconds = iter([10.0, 12.0])
    real_step, real_item = CGAN.train_step, torch_cgan.Items.__getitem__

    def step(gan: CGAN, *args: Any) -> tuple[Tensor, Tensor]:
        fused.append(gan.opt_G.defaults["fused"] and gan.opt_D.defaults["fused"])
        return real_step(gan, *args)

    def item(items: torch_cgan.Items, index: int) -> tuple[Tensor, int]:
        fetched.append(index)
        return real_item(items, index)

    monkeypatch.setattr(CGAN, "train_step", step)
    monkeypatch.setattr(torch_cgan.Items, "__getitem__", item)
    monkeypatch.setattr(time, "perf_counter", lambda: next(seconds))
    images = np.zeros((80, 28, 28), np.uint8)
    argv = ["--steps", "3", "--warmup", "1", "--variant", variant, "--device", "cpu"]
    assert torch_cgan.main(argv, images, np.zeros(80, np.int32)) == 1.5
    assert fused == [variant == "fused"] * 4
    assert bool(fetched) == (variant == "dataloader")
    assert f"{variant}: 1.5 steps/s" in capsys.readouterr().out


def test_stopwatch_names_its_variants() -> None:
    images, labels = np.zeros((1, 28, 28), np.uint8), np.zeros(1, np.int32)
    with pytest.raises(ValueError, match="'turbo' on cpu: choose one of eager"):
        torch_cgan.stopwatch("turbo", images, labels)
    with pytest.raises(ValueError, match="'graphs' on cpu"):
        torch_cgan.stopwatch("graphs", images, labels)
    assert torch_cgan.variants("cuda:0") == (*torch_cgan.variants("cpu"), "graphs")


def test_graphed_steps_are_the_eager_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph is only on CUDA: here its recording is replaced by doing the work each time."""
    recorded = []

    def capture(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        recorded.append(work)
        return work

    monkeypatch.setattr(torch_cgan, "capture", capture)
    x, y = torch.rand(44, *SHAPE), torch.randint(CLASSES, (44,))
    losses, weights = [], []
    for kind in (CGAN, torch_cgan.GraphedCGAN):
        torch.manual_seed(0)
        gan = kind(*small_networks())
        losses.append(gan.train_epoch(torch_cgan.memory_batches(x, y, batch_size=8)))
        weights.append(torch.cat([p.flatten() for p in (*gan.G.parameters(), *gan.D.parameters())]))
    assert len(recorded) == 1
    assert len(losses[0]) == 6  # the last batch has another size
    np.testing.assert_allclose(losses[1], losses[0], atol=1e-6)
    torch.testing.assert_close(weights[1], weights[0], atol=1e-4, rtol=0)


def test_missing_torch_is_one_clear_error() -> None:
    """Python reads None in sys.modules as a module that cannot be imported."""
    script = (
        "import runpy, sys; sys.modules['torch'] = None; sys.argv[1:] = ['--help']; "
        "runpy.run_module('experiments.proofs.torch_cgan', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: this needs PyTorch.")
    assert len(done.stderr.splitlines()) == 2
