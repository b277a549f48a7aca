"""The networks: layers.py has the layers, report.py the report's pair. Losses are in training/.

To add a pair: write its modules in a file of its own, its configuration in cgan_jax/config.py, and
a case in `networks`.
"""

import flax.linen as nn

from cgan_jax.config import ModelConfig
from cgan_jax.models import report


def networks(config: ModelConfig) -> tuple[nn.Module, nn.Module]:
    """The generator and the discriminator of a model's configuration.

    Args:
        config: one of the kinds in `cgan_jax.config.MODEL_KINDS`.
    """
    match config:
        case ModelConfig():
            return report.networks(config)
    raise NotImplementedError(f"no networks are known for {type(config).__name__}")
