"""The report's conditional GAN in plain PyTorch: networks, update step, data loops, stopwatch.
An independent twin (torch, numpy and the standard library only): the oracle of the parity tests
and the peer in the speed benchmark. No JAX, no downloads, no checkpoints and no metrics here.

Speed on random images:  python -m experiments.proofs.torch_cgan --steps 300 --variant fused
(15 s on two idle CPU cores; prints one line with 30 to 60 steps/s, `eager` about 3/4 of that).
Source: the report's notebook, which descends from PyTorch-GAN's `implementations/cgan`.
"""

import argparse
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice, pairwise

import numpy as np
import numpy.typing as npt

try:
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn
    from torch.utils.data import DataLoader, Dataset
except ImportError:
    if __name__ != "__main__":
        raise
    sys.exit("error: this needs PyTorch.\nInstall it with pip install -e '.[torch]'")

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.integer]
Batch = tuple[Tensor, Tensor]

VARIANTS = ("eager", "dataloader", "fused", "fused+compile")
GRAPHS = "graphs"  # a variant for CUDA alone


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
    ) -> None:
        super().__init__()
        self.latent_dim, self.n_classes, self.img_shape = latent_dim, n_classes, tuple(img_shape)
        self.label_emb = nn.Embedding(n_classes, n_classes)
        sizes = (n_classes + latent_dim, *widths, math.prod(self.img_shape))
        norm = partial(nn.BatchNorm1d, eps=0.8, momentum=0.1)
        self.model = nn.Sequential(*_layers(sizes, norm), nn.Tanh())

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
    ) -> None:
        super().__init__()
        self.label_embedding = nn.Embedding(n_classes, n_classes)
        sizes = (math.prod(img_shape) + n_classes, *widths, 1)
        self.model = nn.Sequential(*_layers(sizes, lambda width: nn.Dropout(dropout)))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """images float[B, C, H, W] in [-1, 1], labels int64[B] -> scores float[B, 1]."""
        features = torch.cat((images.flatten(1), self.label_embedding(labels)), dim=1)
        return self.model(features)


def _layers(sizes: Sequence[int], extra: Callable[[int], nn.Module]) -> Iterator[nn.Module]:
    """Linear layers with LeakyReLU between them; `extra` is before it from the second one on."""
    for i, (fan_in, width) in enumerate(pairwise(sizes)):
        yield nn.Linear(fan_in, width)
        if i == len(sizes) - 2:
            return
        if i > 0:
            yield extra(width)
        yield nn.LeakyReLU(0.2)


def inject_dropout_masks(D: Discriminator, masks: Sequence[Sequence[Tensor]]) -> None:
    """Makes D's dropout use `masks[forward pass][dropout layer]`, each [B, width], 1 where kept.

    Kept activations are scaled by 1 / (1 - p). Replaces the masks of an earlier call. `train_step`
    runs D three times, in this order: the fakes for G's loss, the real images, the fakes for D's
    loss. In eval mode dropout does nothing and uses up no mask. D then raises RuntimeError when no
    mask, or none of the right shape, is left. Names in the state dict stay.
    """
    layers = [module for module in D.model if isinstance(module, nn.Dropout)]
    for i, layer in enumerate(layers):
        own = deque(one_pass[i] for one_pass in masks)
        layer.forward = partial(_drop, layer, own)  # type: ignore[method-assign]


def _drop(layer: nn.Dropout, masks: deque[Tensor], x: Tensor) -> Tensor:
    if not layer.training:
        return x
    if not masks:
        raise RuntimeError("no dropout mask left: give one for each forward pass")
    mask = masks.popleft()
    if mask.shape != x.shape:
        raise RuntimeError(f"a dropout mask of shape {tuple(mask.shape)} for {tuple(x.shape)}")
    return x * mask.to(x) / (1 - layer.p)


class CGAN:
    """Both networks with the report's two Adams (eps 1e-8), and its update step.

    `fused` does each update in one kernel, and a CUDA graph can hold one that is `capturable`. The
    latent points and uniform labels of `train_epoch` are drawn from torch's default generator.
    """

    def __init__(
        self,
        G: Generator,
        D: Discriminator,
        lr: float = 2e-4,
        fused: bool = False,
        capturable: bool = False,
    ) -> None:
        self.G, self.D = G, D
        adam = partial(
            torch.optim.Adam, lr=lr, betas=(0.5, 0.999), fused=fused, capturable=capturable
        )
        self.opt_G: torch.optim.Optimizer = adam(G.parameters())
        self.opt_D: torch.optim.Optimizer = adam(D.parameters())

    def train_step(self, real: Tensor, labels: Tensor, z: Tensor, fake_labels: Tensor) -> Batch:
        """One batch of the report: G's update, then D's on the same fakes. Returns both losses.

        1. G generates the fakes once, in training mode, before any update.
        2. G minimises mean((D(fake) - 1)^2), D in training mode.
        3. D, with fresh dropout masks, minimises (mean((D(real) - 1)^2) + mean(D(fake)^2)) / 2
           on those fakes, cut off from G.

        real float[B, C, H, W] in [-1, 1]; labels, fake_labels int64[B]; z float[B, latent_dim].
        The losses, D's first, are 0-d tensors without a graph. Source: least-squares GAN, Mao et
        al. 2017, eq. 9.
        """
        G, D = self.G.train(), self.D.train()

        self.opt_G.zero_grad()
        fake = G(z, fake_labels)
        fake_scores = D(fake, fake_labels)
        g_loss = F.mse_loss(fake_scores, torch.ones_like(fake_scores))
        g_loss.backward()
        self.opt_G.step()

        # G's backward pass left gradients in D as well: this clears them.
        self.opt_D.zero_grad()
        real_scores = D(real, labels)
        real_loss = F.mse_loss(real_scores, torch.ones_like(real_scores))
        fake_scores = D(fake.detach(), fake_labels)
        fake_loss = F.mse_loss(fake_scores, torch.zeros_like(fake_scores))
        d_loss = (real_loss + fake_loss) / 2
        d_loss.backward()
        self.opt_D.step()

        return d_loss.detach(), g_loss.detach()

    def train_epoch(self, batches: Iterable[Batch]) -> list[tuple[float, float]]:
        """Runs `train_step` once for each batch and returns each one's (D loss, G loss).

        The report prints both losses of each batch, so they are read from the device each time.
        """
        device, losses = next(self.G.parameters()).device, []
        n_classes, latent_dim = self.G.n_classes, self.G.latent_dim
        for images, labels in batches:
            n = len(labels)
            z = torch.randn(n, latent_dim, device=device)
            fake_labels = torch.randint(n_classes, (n,), device=device)
            step = self.train_step(images.to(device), labels.to(device), z, fake_labels)
            losses.append((step[0].item(), step[1].item()))
        return losses


class GraphedCGAN(CGAN):
    """The same training at PyTorch's fastest: a step is one CUDA graph, its noise included.

    The graph is for batches of the first one's size; others take the steps of `CGAN`.
    """

    def __init__(self, G: Generator, D: Discriminator) -> None:
        super().__init__(G, D, fused=True, capturable=True)
        self._batch: Batch = (torch.empty(0), torch.empty(0))
        self._replay: Callable[[], Tensor] | None = None

    def train_epoch(self, batches: Iterable[Batch]) -> list[tuple[float, float]]:
        """As `CGAN.train_epoch`, but the losses are read once, at the end."""
        losses = []
        for batch in batches:
            if self._replay is None:
                self._batch = batch[0].clone(), batch[1].clone()
                self._replay = capture(partial(self._step, self._batch))
            if len(batch[1]) == len(self._batch[1]):
                for ours, new in zip(self._batch, batch, strict=True):
                    ours.copy_(new)
                losses.append(self._replay().clone())
            else:
                losses.append(self._step(batch))
        return [(d_loss, g_loss) for d_loss, g_loss in torch.stack(losses).tolist()]

    def _step(self, batch: Batch) -> Tensor:
        """A step with fresh noise; its two losses."""
        images, labels = batch
        z = torch.randn(len(labels), self.G.latent_dim, device=images.device)
        fake_labels = torch.randint(self.G.n_classes, (len(labels),), device=images.device)
        return torch.stack(self.train_step(images, labels, z, fake_labels))


def capture(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Record work on fixed CUDA tensors as a graph; what is returned replays it.

    Before it is recorded, the work is done three times on another stream, as CUDA graphs require.
    Each replay writes its result into the same tensor.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


class Items(Dataset[tuple[Tensor, int]]):
    """A data set that prepares one image at a time, as torchvision's FashionMNIST does.

    images uint8[N, H, W] or [N, H, W, C], labels int[N].
    """

    def __init__(self, images: Images, labels: Labels) -> None:
        self.images = _with_channels(images)
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        # The steps of ToTensor and Normalize([0.5], [0.5]), written out to do without torchvision.
        chw = torch.from_numpy(self.images[index].copy()).permute(2, 0, 1).contiguous()
        image = chw.to(torch.float32).div(255)
        mean, std = torch.as_tensor([0.5]), torch.as_tensor([0.5])
        return image.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1)), int(self.labels[index])


def scale_images(images: Images) -> Tensor:
    """uint8[N, H, W] or [N, H, W, C] in 0..255 -> float32[N, C, H, W] in [-1, 1]."""
    chw = torch.from_numpy(np.ascontiguousarray(_with_channels(images).transpose(0, 3, 1, 2)))
    return chw.to(torch.float32) / 127.5 - 1


def _with_channels(images: Images) -> Images:
    return images[..., None] if images.ndim == 3 else images


def memory_batches(images: Tensor, labels: Tensor, batch_size: int = 64) -> Iterator[Batch]:
    """One shuffled epoch over tensors in memory, with the last, smaller batch.

    images float[N, C, H, W], labels int64[N], both on one device.
    """
    for index in torch.split(torch.randperm(len(images)).to(images.device), batch_size):
        yield images[index], labels[index]


def make_loader(
    images: Images, labels: Labels, batch_size: int = 64, workers: int = 0
) -> DataLoader[tuple[Tensor, int]]:
    """The notebook's way to the same batches: a shuffling DataLoader, item by item."""
    return DataLoader(Items(images, labels), batch_size, shuffle=True, num_workers=workers)


def variants(device: str) -> tuple[str, ...]:
    """The variants of the loop that a device offers."""
    return (*VARIANTS, GRAPHS) if device.startswith("cuda") else VARIANTS


def stopwatch(
    variant: str, images: Images, labels: Labels, device: str = "cpu", workers: int = 0
) -> Callable[..., float]:
    """A function that times `n_steps` training steps of the report preset.

    It takes `warmup` untimed steps before, and returns steps per second of wall-clock time: making
    batches, z and labels, both updates, and reading both losses. Measure on an idle machine:
    torch's threads, which wait for each other, lose far more to other work than one does.

    variant: "eager" (data in memory), "dataloader" (item by item, with `workers` processes),
        "fused" (in memory, fused Adam), "fused+compile" (also torch.compile on both networks) or,
        on CUDA, "graphs" (also each step as a CUDA graph, without torch.compile).
    images uint8[N, 28, 28] or [N, 28, 28, 1], labels int[N] in 0..9; epochs follow one another.
    """
    if variant not in variants(device):
        names = ", ".join(variants(device))
        raise ValueError(f"Unknown variant {variant!r} on {device}: choose one of {names}.")
    G, D = Generator().to(device), Discriminator().to(device)
    gan = GraphedCGAN(G, D) if variant == GRAPHS else CGAN(G, D, fused="fused" in variant)
    if variant.endswith("compile"):
        gan.G.compile()
        gan.D.compile()
    batches = _endless_batches(variant, images, labels, device, workers)

    def measure(n_steps: int, warmup: int = 30) -> float:
        gan.train_epoch(islice(batches, warmup))
        start = time.perf_counter()
        gan.train_epoch(islice(batches, n_steps))
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        return n_steps / (time.perf_counter() - start)

    return measure


def _endless_batches(
    variant: str, images: Images, labels: Labels, device: str, workers: int
) -> Iterator[Batch]:
    if variant == "dataloader":
        loader = make_loader(images, labels, workers=workers)
        while True:
            yield from loader
    x = scale_images(images).to(device)
    y = torch.from_numpy(labels.astype(np.int64)).to(device)
    while True:
        yield from memory_batches(x, y)


def main(
    argv: Sequence[str] | None = None, images: Images | None = None, labels: Labels | None = None
) -> float:
    """Prints and returns the steps per second of one variant, on `images` or on random ones."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.proofs.torch_cgan",
        description="Time the report's GAN in PyTorch.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--variant", choices=variants(device), default="eager", help="of the loop")
    parser.add_argument("--steps", type=int, default=300, help="timed")
    parser.add_argument("--warmup", type=int, default=30, help="steps before them")
    parser.add_argument("--device", default=device, help="as torch calls it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--workers", type=int, default=0, help="loader processes (dataloader only)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, noise and random images")
    args = parser.parse_args(argv)

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    if images is None or labels is None:
        rng = np.random.default_rng(args.seed)
        images = rng.integers(0, 256, (60_000, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, 60_000, dtype=np.int32)
    measure = stopwatch(args.variant, images, labels, args.device, args.workers)
    rate = measure(args.steps, args.warmup)
    print(
        f"{args.variant}: {rate:.1f} steps/s "
        f"({args.steps} steps, {args.device}, torch {torch.__version__})"
    )
    return rate


if __name__ == "__main__":
    main()
