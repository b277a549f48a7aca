"""A run's steps as `train` takes them, without callbacks, files and checkpoints."""

import numpy as np

from cgan_jax.config import TrainConfig
from cgan_jax.data import Dataset
from cgan_jax.data.sources import DatasetSource
from cgan_jax.training.chunks import ChunkRunner
from cgan_jax.training.gan import GAN, GANState
from cgan_jax.training.loop import fresh_state
from cgan_jax.training.step import run_keys


class BareRun:
    """A run of a configuration on some data.

    Args:
        config: what to train; the seed in it is not read.
        dataset: the training images.
        seed: of the run.

    Attributes:
        steps_per_epoch: batches in an epoch; the last may be smaller.
    """

    def __init__(self, config: TrainConfig, dataset: Dataset, seed: int = 0) -> None:
        self._gan, self._keys = GAN.from_config(config), run_keys(seed)
        source = DatasetSource(
            dataset, config.images_per_step, self._keys.order, balance=config.balance
        )
        self._runner = ChunkRunner(self._gan, source, self._keys.steps, config)
        self.steps_per_epoch = source.steps_per_epoch

    def fresh_state(self) -> GANState:
        """The state before the first step."""
        return fresh_state(self._gan, self._keys.init)

    def take(self, state: GANState, step: int, n: int) -> tuple[GANState, np.ndarray]:
        """Take n steps in chunks of the length that the loop chooses.

        Args:
            state: the state after `step` steps; its buffers are donated.
            step: number of finished steps.
            n: how many to take, all in one epoch.

        Returns:
            the state after them, and d_loss and g_loss of each, float32 `[n, 2]`.
        """
        end, losses = step + n, list[np.ndarray]()
        while step < end:
            chunk = self._runner.run(state, step, min(self._runner.length, end - step))
            state = chunk.state
            step += len(chunk.losses)
            losses.append(chunk.losses)
        return state, np.concatenate(losses)
