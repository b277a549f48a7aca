"""Writes tests/golden/parts.npz: what PyTorch makes of penalties and Adam's schedules, in float64.

Run from the repository's root, with PyTorch: python -m tests.golden.make_parts
Images are `[B, H, W, C]` and the kernel is `[height, width, in, out]`, as in cgan_jax.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import conv2d, leaky_relu, softplus

SIZE, CLASSES, N_PAIRS, WIDTH = (5, 4, 2), 3, 3, 6
N_STEPS, SCHEDULE_STEPS = 50, 40  # the last steps are taken with the last values
ADAM = {"lr": 1e-2, "lr_end": 1e-3, "b1": 0.5, "b2": 0.9, "b2_end": 0.99}


def make(seed: int = 0) -> dict[str, np.ndarray]:
    """The arrays of the file, drawn from a seed.

    Inputs of the penalties: real, labels, fake, fake_labels; share, of the real image in the points
    between; and D's parameters, `param.NAME`. Results: `NAME` for a penalty's value, and
    `NAME.grad.PARAM`; `NAME.augmented` has the images changed before D sees them.
    Adam: its settings, such as `adam.lr`; `adam.grads`, [steps, 4]; and the parameters after each
    step from 0, `adam.constant`, `adam.linear` and `adam.cosine`.
    """
    rng = np.random.default_rng(seed)
    return _penalties(rng) | _adam(rng)


def _penalties(rng: np.random.Generator) -> dict[str, np.ndarray]:
    height, width, channels = SIZE
    arrays = {
        "real": rng.uniform(-1, 1, (N_PAIRS, *SIZE)),
        "labels": rng.integers(0, CLASSES, N_PAIRS, np.int32),
        "fake": rng.uniform(-1, 1, (N_PAIRS, *SIZE)),
        "fake_labels": rng.integers(0, CLASSES, N_PAIRS, np.int32),
        "share": rng.random((N_PAIRS, 1, 1, 1)),
        "param.kernel": rng.standard_normal((3, 3, channels, 4)) / 2,
        "param.hidden": rng.standard_normal((height * width * 4, WIDTH)) / 2,
        "param.label": rng.standard_normal((CLASSES, WIDTH)),
        "param.output": rng.standard_normal(WIDTH),
    }
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    real, fake, share = (tensors[name] for name in ("real", "fake", "share"))
    labels, fake_labels = tensors["labels"].long(), tensors["fake_labels"].long()
    params = {name: tensors[f"param.{name}"] for name in ("kernel", "hidden", "label", "output")}
    for param in params.values():
        param.requires_grad_()
    for suffix, augment in (("", lambda x: x), (".augmented", augmented)):

        def norms(images, labels, augment=augment):
            images = images.clone().requires_grad_()
            scores = discriminator(params, augment(images), labels)
            (grads,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
            return grads.square().sum((1, 2, 3))

        r1, r2 = norms(real, labels).mean() / 2, norms(fake, fake_labels).mean() / 2
        between = norms(share * real + (1 - share) * fake, labels).sqrt()
        values = {"r1": r1, "r2": r2, "r1_r2": r1 + r2, "wgan_gp": (between - 1).square().mean()}
        for name, value in values.items():
            grads = torch.autograd.grad(value, list(params.values()), retain_graph=True)
            arrays[name + suffix] = value.detach().numpy()
            arrays |= {
                f"{name}{suffix}.grad.{param}": grad.numpy()
                for param, grad in zip(params, grads, strict=True)
            }
    return arrays


def discriminator(
    params: dict[str, torch.Tensor], images: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """A convolution and two layers, smooth and not: scores `[B]`."""
    kernel = params["kernel"].permute(3, 2, 0, 1)
    x = leaky_relu(conv2d(images.permute(0, 3, 1, 2), kernel, padding=1), 0.2)
    hidden = x.permute(0, 2, 3, 1).flatten(1) @ params["hidden"] + params["label"][labels]
    return softplus(hidden) @ params["output"]


def augmented(images: torch.Tensor) -> torch.Tensor:
    """A change of images whose slope depends on the pixel."""
    return 0.7 * images.flip(2) + 0.2 * images**2


def _adam(rng: np.random.Generator) -> dict[str, np.ndarray]:
    grads = rng.standard_normal((N_STEPS, 4)) * np.logspace(-4, 1, N_STEPS)[:, None]
    settings = ADAM | {"schedule_steps": SCHEDULE_STEPS}
    arrays = {f"adam.{name}": np.array(value) for name, value in settings.items()}
    arrays["adam.grads"] = grads
    curves = {
        "constant": lambda share: 0.0,
        "linear": lambda share: share,
        "cosine": lambda share: (1 - math.cos(math.pi * share)) / 2,
        "cooldown": lambda share: (1 - math.cos(math.pi * max(0, 5 * share - 4))) / 2,
    }
    for name, curve in curves.items():
        param = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        optimizer, path = torch.optim.Adam([param]), []
        for step, grad in enumerate(grads):
            moved = curve(min(step / SCHEDULE_STEPS, 1))
            lr, b2 = (ADAM[s] + (ADAM[f"{s}_end"] - ADAM[s]) * moved for s in ("lr", "b2"))
            optimizer.param_groups[0] |= {"lr": lr, "betas": (ADAM["b1"], b2)}
            param.grad = torch.from_numpy(grad)
            optimizer.step()
            path.append(param.detach().numpy().copy())
        arrays[f"adam.{name}"] = np.stack(path)
    return arrays


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("parts.npz"), allow_pickle=False, **make())
