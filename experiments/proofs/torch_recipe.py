"""The presets' training in plain PyTorch: an independent twin of `cgan_jax.train_step`.

The oracle of tests/training/test_recipes_live.py and the peer of the benchmark's part `recipes`.
The networks are in torch_networks.py; the report's own training is in torch_cgan.py.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cgan_jax.config import OptimizerConfig, TrainConfig
from experiments.proofs import torch_networks


class Recipe:
    """A preset's networks, optimizers and average, and its update. Not for the report's.

    Args:
        config: a configuration without augmentation; `schedule_steps` set if something changes.
        dtype: of all parameters.
        fused: whether Adam is one kernel for all parameters, which is the fastest.
    """

    def __init__(
        self, config: TrainConfig, dtype: torch.dtype = torch.float32, *, fused: bool = True
    ) -> None:
        if config.augment or config.loss not in ("relativistic", "hinge"):
            raise NotImplementedError("no twin of this recipe")
        self.config, self.n_steps = config, 0
        self.G, self.D = (net.to(dtype) for net in torch_networks.networks(config.model))
        for net in (self.G, self.D):
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizers = [
            torch.optim.Adam(
                net.parameters(),
                lr=settings.lr,
                betas=(settings.b1, settings.b2),
                eps=settings.eps,
                fused=fused,
            )
            for net, settings in zip((self.G, self.D), self._settings(), strict=True)
        ]
        self.average: Any = copy.deepcopy(self.G) if config.average.keep else None

    def load(self, gen: Mapping[str, Any], disc: Mapping[str, Any]) -> None:
        """Take over the variables of both Flax networks, and start the average from them."""
        self.G.load(gen)
        self.D.load(disc)
        if self.average is not None:
            self.average.load(gen)

    def step(self, real: Tensor, labels: Tensor, z: Tensor, fake_labels: Tensor) -> Tensor:
        """Update the generator, then the discriminator on the same fakes, then the average.

        Args:
            real: `[B, C, H, W]` in [-1, 1].
            labels: int64 `[B]`.
            z: `[B, latent_dim]`.
            fake_labels: int64 `[B]`; a paired loss takes `labels` instead.

        Returns:
            d_loss and g_loss before the updates, the penalty not counted.
        """
        paired = self.config.loss == "relativistic"
        fake_labels = labels if paired else fake_labels
        self._set_schedules()
        real = real.contiguous(memory_format=torch.channels_last)

        fake = self.G(z, fake_labels)
        for parameter in self.D.parameters():
            parameter.requires_grad_(False)
        if paired:
            g_loss = F.softplus(self.D(real, labels) - self.D(fake, fake_labels)).mean()
        else:
            g_loss = -self._scores_without_statistics(fake, fake_labels).mean()
        self._descend(self.optimizers[0], g_loss)

        for parameter in self.D.parameters():
            parameter.requires_grad_(True)
        d_loss, penalty = self._discriminator_losses(real, labels, fake.detach(), fake_labels)
        self._descend(self.optimizers[1], d_loss + penalty)
        self.n_steps += 1
        self._take_average(len(real))
        return torch.stack([d_loss.detach(), g_loss.detach()])

    def _discriminator_losses(
        self, real: Tensor, labels: Tensor, fake: Tensor, fake_labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        settings = self.config.penalty
        images = torch.cat([real, fake])
        penalized = settings.kind != "none" and self.n_steps % settings.every == 0
        images.requires_grad_(penalized)
        scores = self.D(images, torch.cat([labels, fake_labels]))
        real_score, fake_score = scores.chunk(2)
        if self.config.loss == "relativistic":
            loss = F.softplus(fake_score - real_score).mean()
        else:
            loss = F.relu(1 - real_score).mean() + F.relu(1 + fake_score).mean()
        if not penalized:
            return loss, loss.new_zeros(())
        if settings.kind != "r1_r2":
            raise NotImplementedError(f"no twin of the penalty {settings.kind}")
        (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
        gamma, end = settings.gamma, settings.gamma_end
        if end is not None:
            gamma = self._on_the_way("cosine", gamma, end)
        norms = gradient.square().sum((1, 2, 3))
        return loss, settings.every * gamma / 2 * norms.mean() * 2  # both halves: twice the mean

    def _scores_without_statistics(self, images: Tensor, labels: Tensor) -> Tensor:
        """D's scores in training mode, without their trace in its spectral norms."""
        copies = {name: buffer.clone() for name, buffer in self.D.named_buffers()}
        return torch.func.functional_call(self.D, copies, (images, labels))

    def _descend(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def _settings(self) -> tuple[OptimizerConfig, OptimizerConfig]:
        return self.config.optimizer, self.config.disc_optimizer or self.config.optimizer

    def _on_the_way(self, curve: str, start: float, end: float) -> float:
        total = self.config.schedule_steps
        assert total
        length = max(1, total // 5) if curve == "cooldown" else total
        t = min(1.0, max(0.0, 1 - (total - self.n_steps) / length))
        share = t if curve == "linear" else (1 - math.cos(math.pi * t)) / 2
        return start + share * (end - start)

    def _set_schedules(self) -> None:
        for optimizer, settings in zip(self.optimizers, self._settings(), strict=True):
            (group,) = optimizer.param_groups
            if settings.lr_end is not None:
                group["lr"] = self._on_the_way(settings.schedule, settings.lr, settings.lr_end)
            if settings.b2_end is not None:
                b2 = self._on_the_way(settings.schedule, settings.b2, settings.b2_end)
                group["betas"] = (settings.b1, b2)

    @torch.no_grad()
    def _take_average(self, batch_size: int) -> None:
        settings = self.config.average
        if self.average is None:
            return
        half_life = settings.half_life
        if settings.ramp is not None:
            seen = self.n_steps * self.config.batch_size
            half_life = min(half_life, settings.ramp * seen)
        take = 1 - 0.5 ** (self.config.batch_size / half_life)
        new = [*self.G.parameters(), *(b for b in self.G.buffers() if b.is_floating_point())]
        old = self.average
        kept = [*old.parameters(), *(b for b in old.buffers() if b.is_floating_point())]
        torch._foreach_lerp_(kept, new, take)
