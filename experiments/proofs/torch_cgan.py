"""The report's conditional GAN in plain PyTorch: networks, update step, data loops, stopwatch.
An independent twin (torch, numpy and the standard library only): the oracle of the parity tests
and the peer in the speed benchmark. No JAX, no downloads, no checkpoints and no metrics here.

Speed on random images:  python -m experiments.proofs.torch_cgan --steps 300 --variant fused
(15 s on two idle CPU cores; prints one line with 30 to 60 steps/s, `eager` about 3/4 of that).
Source: the report's notebook, which descends from PyTorch-GAN's `implementations/cgan`.
"""

import argparse
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

Batch = tuple[Tensor, Tensor]

VARIANTS = ("eager", "dataloader", "fused", "fused+compile")


class Generator(nn.Module):
    """Maps noise and a class to an image: an MLP with BatchNorm from the second layer on.

    `bn_eps` is 0.8 because the report passes 0.8 as BatchNorm1d's second positional argument.
    1,511,412 parameters with the defaults.
    """

    def __init__(
        self,
        latent_dim: int = 100,
        n_classes: int = 10,
        widths: Sequence[int] = (128, 256, 512, 1024),
        img_shape: Sequence[int] = (1, 28, 28),
        bn_eps: float = 0.8,
        bn_momentum: float = 0.1,
        negative_slope: float = 0.2,
    ) -> None:
        super().__init__()
        self.img_shape = tuple(img_shape)
        self.label_emb = nn.Embedding(n_classes, n_classes)
        layers: list[nn.Module] = []
        fan_in = n_classes + latent_dim
        for i, width in enumerate(widths):
            layers.append(nn.Linear(fan_in, width))
            if i > 0:
                layers.append(nn.BatchNorm1d(width, eps=bn_eps, momentum=bn_momentum))
            layers.append(nn.LeakyReLU(negative_slope))
            fan_in = width
        layers += [nn.Linear(fan_in, math.prod(self.img_shape)), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """z float[B, latent_dim], labels int64[B] -> images float[B, C, H, W] in (-1, 1)."""
        flat: Tensor = self.model(torch.cat((self.label_emb(labels), z), dim=1))
        return flat.view(-1, *self.img_shape)


class Discriminator(nn.Module):
    """Scores an image given its class: an MLP with dropout from the second layer on.

    The score is raw: no sigmoid. 932,965 parameters with the defaults.
    """

    def __init__(
        self,
        n_classes: int = 10,
        widths: Sequence[int] = (512, 512, 512),
        img_shape: Sequence[int] = (1, 28, 28),
        dropout: float = 0.4,
        negative_slope: float = 0.2,
    ) -> None:
        super().__init__()
        self.label_embedding = nn.Embedding(n_classes, n_classes)
        layers: list[nn.Module] = []
        fan_in = math.prod(img_shape) + n_classes
        for i, width in enumerate(widths):
            layers.append(nn.Linear(fan_in, width))
            if i > 0:
                layers.append(nn.Dropout(dropout))
            layers.append(nn.LeakyReLU(negative_slope))
            fan_in = width
        layers.append(nn.Linear(fan_in, 1))
        self.model = nn.Sequential(*layers)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """images float[B, C, H, W] in [-1, 1], labels int64[B] -> scores float[B, 1]."""
        features = torch.cat((images.flatten(1), self.label_embedding(labels)), dim=1)
        scores: Tensor = self.model(features)
        return scores


class FixedDropout(nn.Module):
    """Stands in for nn.Dropout with masks given from outside, one a forward pass, in order.

    A mask is 1 (or True) where an activation is kept and 0 where it is dropped; what is kept is
    scaled by 1 / (1 - p). In eval mode it does nothing and uses up no mask.
    """

    def __init__(self, p: float, masks: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.p = p
        self.masks = deque(masks)

    def forward(self, x: Tensor) -> Tensor:
        """x float[B, width] -> float[B, width]; RuntimeError when no mask of that shape is left."""
        if not self.training:
            return x
        if not self.masks:
            raise RuntimeError("FixedDropout has no mask left: give one for each forward pass.")
        mask = self.masks.popleft()
        if mask.shape != x.shape:
            raise RuntimeError(f"Dropout mask of shape {tuple(mask.shape)} for {tuple(x.shape)}.")
        return x * mask.to(x) / (1 - self.p)


def inject_dropout_masks(D: Discriminator, masks: Iterable[Sequence[Tensor]]) -> None:
    """Makes D's dropout use `masks[forward pass][dropout layer]`, each [B, width], 1 where kept.

    Replaces what was left of an earlier call. `train_step` runs D three times, in this order: the
    fakes for G's loss, the real images, the fakes for D's loss. Names in the state dict stay.
    """
    passes = list(masks)
    layer = 0
    for i, module in enumerate(D.model):
        if isinstance(module, nn.Dropout | FixedDropout):
            fixed = FixedDropout(module.p, [one_pass[layer] for one_pass in passes])
            D.model[i] = fixed.train(module.training)
            layer += 1


def make_optimizers(
    G: Generator,
    D: Discriminator,
    lr: float = 2e-4,
    betas: tuple[float, float] = (0.5, 0.999),
    fused: bool = False,
) -> tuple[torch.optim.Adam, torch.optim.Adam]:
    """The report's two Adams (eps 1e-8), G's first; `fused` does each update in one kernel."""
    return (
        torch.optim.Adam(G.parameters(), lr=lr, betas=betas, fused=fused),
        torch.optim.Adam(D.parameters(), lr=lr, betas=betas, fused=fused),
    )


def train_step(
    G: Generator,
    D: Discriminator,
    opt_G: torch.optim.Optimizer,
    opt_D: torch.optim.Optimizer,
    real: Tensor,
    labels: Tensor,
    z: Tensor,
    fake_labels: Tensor,
) -> tuple[Tensor, Tensor]:
    """One batch of the report: G's update, then D's on the same fakes. Returns (d_loss, g_loss).

    1. The fakes are made once, by G in training mode, before any update.
    2. G minimises mean((D(fake) - 1)^2), D in training mode.
    3. D, with fresh dropout masks, minimises (mean((D(real) - 1)^2) + mean(D(fake)^2)) / 2
       on those fakes, cut off from G.

    real float[B, C, H, W] in [-1, 1]; labels, fake_labels int64[B]; z float[B, latent_dim].
    The losses are 0-d tensors without a graph. Source: least-squares GAN, Mao et al. 2017, eq. 9.
    """
    G.train()
    D.train()

    opt_G.zero_grad()
    fake = G(z, fake_labels)
    fake_scores = D(fake, fake_labels)
    g_loss = F.mse_loss(fake_scores, torch.ones_like(fake_scores))
    g_loss.backward()
    opt_G.step()

    # G's backward pass left gradients in D as well: this clears them.
    opt_D.zero_grad()
    real_scores = D(real, labels)
    real_loss = F.mse_loss(real_scores, torch.ones_like(real_scores))
    fake_scores = D(fake.detach(), fake_labels)
    fake_loss = F.mse_loss(fake_scores, torch.zeros_like(fake_scores))
    d_loss = (real_loss + fake_loss) / 2
    d_loss.backward()
    opt_D.step()

    return d_loss.detach(), g_loss.detach()


class Items(Dataset[tuple[Tensor, int]]):
    """A data set that prepares one image at a time, as torchvision's FashionMNIST does.

    images uint8[N, H, W] or [N, H, W, C], labels int[N].
    """

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.integer]) -> None:
        self.images = _with_channels(images)
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        # The steps of ToTensor and Normalize([0.5], [0.5]), written out: torchvision is no need.
        chw = torch.from_numpy(self.images[index].copy()).permute(2, 0, 1).contiguous()
        image = chw.to(torch.float32).div(255)
        mean, std = torch.as_tensor([0.5]), torch.as_tensor([0.5])
        return image.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1)), int(self.labels[index])


def scale_images(images: npt.NDArray[np.uint8]) -> Tensor:
    """uint8[N, H, W] or [N, H, W, C] in 0..255 -> float32[N, C, H, W] in [-1, 1]."""
    chw = torch.from_numpy(np.ascontiguousarray(_with_channels(images).transpose(0, 3, 1, 2)))
    return chw.to(torch.float32) / 127.5 - 1


def _with_channels(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return images[..., None] if images.ndim == 3 else images


def memory_batches(
    images: Tensor, labels: Tensor, batch_size: int = 64, rng: torch.Generator | None = None
) -> Iterator[Batch]:
    """One shuffled epoch over tensors in memory; the last, smaller batch is kept.

    images float[N, C, H, W], labels int64[N], both on one device; `rng` is a CPU generator.
    """
    order = torch.randperm(len(images), generator=rng).to(images.device)
    for index in torch.split(order, batch_size):
        yield images[index], labels[index]


def make_loader(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.integer],
    batch_size: int = 64,
    workers: int = 0,
    rng: torch.Generator | None = None,
) -> DataLoader[tuple[Tensor, int]]:
    """The notebook's way to the same batches: a shuffling DataLoader, item by item."""
    return DataLoader(
        Items(images, labels), batch_size, shuffle=True, num_workers=workers, generator=rng
    )


def train_epoch(
    G: Generator,
    D: Discriminator,
    opt_G: torch.optim.Optimizer,
    opt_D: torch.optim.Optimizer,
    batches: Iterable[Batch],
    latent_dim: int = 100,
    n_classes: int = 10,
    on_batch: Callable[[int, float, float], None] = lambda batch, d_loss, g_loss: None,
) -> int:
    """Runs `train_step` once for each batch and returns the number of batches.

    z ~ N(0, 1) and uniform fake labels are drawn from torch's default generator. `on_batch` gets
    (batch number, D loss, G loss): the report prints both losses of each batch, so they are read
    from the device each time.
    """
    device = next(G.parameters()).device
    n_batches = 0
    for real, labels in batches:
        n = len(real)
        d_loss, g_loss = train_step(
            G,
            D,
            opt_G,
            opt_D,
            real.to(device),
            labels.to(device),
            z=torch.randn(n, latent_dim, device=device),
            fake_labels=torch.randint(n_classes, (n,), device=device),
        )
        on_batch(n_batches, d_loss.item(), g_loss.item())
        n_batches += 1
    return n_batches


def train(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.integer],
    n_epochs: int = 200,
    batch_size: int = 64,
    device: str = "cpu",
    seed: int = 0,
    fused: bool = False,
) -> tuple[Generator, Discriminator]:
    """The report's whole run with its printed lines; `n_epochs=200` makes 187,600 steps.

    images uint8[N, 28, 28] or [N, 28, 28, 1], labels int[N] in 0..9.
    """
    torch.manual_seed(seed)
    G, D = Generator().to(device), Discriminator().to(device)
    opt_G, opt_D = make_optimizers(G, D, fused=fused)
    x = scale_images(images).to(device)
    y = torch.from_numpy(labels.astype(np.int64)).to(device)
    n_batches = math.ceil(len(x) / batch_size)
    for epoch in range(n_epochs):

        def report(batch: int, d_loss: float, g_loss: float, epoch: int = epoch) -> None:
            print(
                f"[Epoch {epoch}/{n_epochs}] [Batch {batch}/{n_batches}] "
                f"[D loss: {d_loss:f}] [G loss: {g_loss:f}]"
            )

        train_epoch(G, D, opt_G, opt_D, memory_batches(x, y, batch_size), on_batch=report)
    return G, D


def measure_steps_per_second(
    variant: str,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.integer],
    n_steps: int = 300,
    warmup: int = 30,
    device: str = "cpu",
    threads: int | None = None,
    workers: int = 0,
    batch_size: int = 64,
) -> float:
    """Times `n_steps` training steps of the report preset after `warmup` untimed ones.

    variant: "eager" (data in memory), "dataloader" (item by item, with `workers` processes),
        "fused" (in memory, fused Adam) or "fused+compile" (also torch.compile on both networks).
    images uint8[N, 28, 28] or [N, 28, 28, 1], labels int[N] in 0..9; epochs follow one another.
    threads: torch's CPU threads for the measurement; None leaves torch's choice. Measure on an
        idle machine: threads that wait for each other lose far more to other work than one does.
    Returns steps a second of wall-clock time: making batches, z and labels, both updates, and
    reading both losses.
    """
    if variant not in VARIANTS:
        raise ValueError(f"Unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}.")
    threads_before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        G, D = Generator().to(device), Discriminator().to(device)
        opt_G, opt_D = make_optimizers(G, D, fused=variant.startswith("fused"))
        if variant.endswith("compile"):
            G.compile()
            D.compile()
        batches = _endless_batches(variant, images, labels, device, workers, batch_size)
        train_epoch(G, D, opt_G, opt_D, islice(batches, warmup))
        start = time.perf_counter()
        # Each loss is read back inside, so the device has finished when this returns.
        train_epoch(G, D, opt_G, opt_D, islice(batches, n_steps))
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        return n_steps / (time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads_before)


def _endless_batches(
    variant: str,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.integer],
    device: str,
    workers: int,
    batch_size: int,
) -> Iterator[Batch]:
    if variant == "dataloader":
        loader = make_loader(images, labels, batch_size, workers)
        while True:
            yield from loader
    x = scale_images(images).to(device)
    y = torch.from_numpy(labels.astype(np.int64)).to(device)
    while True:
        yield from memory_batches(x, y, batch_size)


def main(
    argv: Sequence[str] | None = None,
    images: npt.NDArray[np.uint8] | None = None,
    labels: npt.NDArray[np.integer] | None = None,
) -> float:
    """Prints and returns the steps a second of one variant, on `images` or on random ones."""
    parser = argparse.ArgumentParser(description="Time the report's GAN in PyTorch.")
    parser.add_argument("--variant", choices=VARIANTS, default="eager")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--warmup", type=int, default=30)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="torch's CPU threads (default: torch's choice)")
    parser.add_argument("--workers", type=int, default=0, help="loader processes (dataloader only)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    torch.manual_seed(args.seed)
    if images is None or labels is None:
        rng = np.random.default_rng(args.seed)
        images = rng.integers(0, 256, (60_000, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, 60_000, dtype=np.int32)
    rate = measure_steps_per_second(
        args.variant,
        images,
        labels,
        n_steps=args.steps,
        warmup=args.warmup,
        device=args.device,
        threads=args.threads,
        workers=args.workers,
    )
    print(
        f"{args.variant}: {rate:.1f} steps/s "
        f"({args.steps} steps, {args.device}, torch {torch.__version__})"
    )
    return rate


if __name__ == "__main__":
    main()
