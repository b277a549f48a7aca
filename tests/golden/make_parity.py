"""Writes tests/golden/parity_tiny.npz: six steps of the PyTorch twin on small networks, in float64.

Run from the repository's root, with PyTorch: python -m tests.golden.make_parity
Arrays have PyTorch's names, so that this file does not depend on cgan_jax.
"""

from pathlib import Path

import numpy as np
import torch

from experiments.proofs.torch_cgan import CGAN, Discriminator, Generator, inject_dropout_masks

CLASSES, LATENT, SIZE, CHANNELS = 3, 5, 3, 2
GENERATOR_WIDTHS, DISCRIMINATOR_WIDTHS = (6, 8, 8), (8, 8, 8)
BATCH_SIZES = (8, 8, 8, 5, 8, 8)  # the fourth is an epoch's last


def make() -> dict[str, np.ndarray]:
    """The arrays of the file.

    Inputs, one per step (`images.3`): images uint8 `[B, H, W, C]`, labels, z, fake_labels, and
    masks bool `[pass, layer, B, width]` in the twin's order of passes. Results, stacked over the
    steps: d_loss, g_loss; `G.param.NAME` and `G.buffer.NAME`, which begin with the value before the
    first step; `G.exp_avg.NAME` and `G.exp_avg_sq.NAME`; D's likewise. The fakes are one array per
    step.
    """
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    image = (CHANNELS, SIZE, SIZE)
    G = Generator(LATENT, CLASSES, GENERATOR_WIDTHS, image).double()
    D = Discriminator(CLASSES, DISCRIMINATOR_WIDTHS, image).double()
    gan = CGAN(G, D)
    fakes: list[torch.Tensor] = []
    G.register_forward_hook(lambda module, args, images: fakes.append(images.detach()))

    arrays: dict[str, np.ndarray] = {}
    steps: list[dict[str, np.ndarray]] = []
    before = _weights("G", G) | _weights("D", D)
    for i, n in enumerate(BATCH_SIZES):
        images = rng.integers(0, 256, (n, SIZE, SIZE, CHANNELS), np.uint8)
        labels, fake_labels = rng.integers(0, CLASSES, (2, n), np.int32)
        z = rng.standard_normal((n, LATENT))
        masks = rng.random((3, 2, n, DISCRIMINATOR_WIDTHS[-1])) < 0.6
        inject_dropout_masks(D, [[torch.from_numpy(m) for m in layers] for layers in masks])
        d_loss, g_loss = gan.train_step(
            real=torch.from_numpy(images).permute(0, 3, 1, 2).double() / 127.5 - 1,
            labels=torch.from_numpy(labels).long(),
            z=torch.from_numpy(z),
            fake_labels=torch.from_numpy(fake_labels).long(),
        )
        inputs = {
            "images": images,
            "labels": labels,
            "z": z,
            "fake_labels": fake_labels,
            "masks": masks,
            "fakes": fakes[-1].permute(0, 2, 3, 1).numpy(),
        }
        arrays |= {f"{name}.{i}": array for name, array in inputs.items()}
        moments = _moments("G", G, gan.opt_G) | _moments("D", D, gan.opt_D)
        losses = {"d_loss": d_loss.numpy(), "g_loss": g_loss.numpy()}
        steps.append(losses | _weights("G", G) | _weights("D", D) | moments)
    for name in steps[0]:
        first = [before[name]] if name in before else []
        arrays[name] = np.stack(first + [step[name] for step in steps])
    return arrays


def _weights(net: str, module: torch.nn.Module) -> dict[str, np.ndarray]:
    params = {f"{net}.param.{n}": p.detach().numpy().copy() for n, p in module.named_parameters()}
    buffers = {f"{net}.buffer.{n}": b.numpy().copy() for n, b in module.named_buffers()}
    return params | buffers


def _moments(
    net: str, module: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, np.ndarray]:
    return {
        f"{net}.{kind}.{name}": optimizer.state[param][kind].numpy().copy()
        for name, param in module.named_parameters()
        for kind in ("exp_avg", "exp_avg_sq")
    }


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("parity_tiny.npz"), allow_pickle=False, **make())
