"""Ways in and out of cgan_jax for other frameworks' weights: the public names, nothing else.

Imports neither JAX nor PyTorch.
"""

from cgan_jax.interop.torch_weights import (
    batches_tracked,
    config_from_torch,
    discriminator_from_torch,
    discriminator_to_torch,
    generator_from_torch,
    generator_to_torch,
)
from cgan_jax.interop.weight_files import load_state_dict, save_state_dict

__all__ = [
    "batches_tracked",
    "config_from_torch",
    "discriminator_from_torch",
    "discriminator_to_torch",
    "generator_from_torch",
    "generator_to_torch",
    "load_state_dict",
    "save_state_dict",
]
