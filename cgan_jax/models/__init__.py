"""The networks: layers.py and convolution.py have the layers, every other file has one pair.

The losses are in cgan_jax/losses.py. To add a pair: write its modules in a file of its own, its
configuration in cgan_jax/model_config.py, and a case in `networks`.
"""

import flax.linen as nn

from cgan_jax.config import BaseModelConfig, MLPConfig, ModelConfig, ResidualConfig, SNGANConfig
from cgan_jax.models import mlp, report, residual, sngan


def networks(config: BaseModelConfig) -> tuple[nn.Module, nn.Module]:
    """The generator and the discriminator of a model's configuration.

    Args:
        config: one of the kinds in `cgan_jax.config.MODEL_KINDS`.
    """
    match config:
        case ModelConfig():
            return report.networks(config)
        case MLPConfig():
            return mlp.MLPGenerator(config), mlp.MLPDiscriminator(config)
        case ResidualConfig():
            return residual.ResidualGenerator(config), residual.ResidualDiscriminator(config)
        case SNGANConfig():
            return sngan.SNGANGenerator(config), sngan.SNGANDiscriminator(config)
    raise NotImplementedError(f"no networks are known for {type(config).__name__}")
