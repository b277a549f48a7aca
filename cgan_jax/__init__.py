"""Class-conditional GANs in JAX and Flax.

- Pictures of a trained run: `load_generator`, `TrainedGenerator`, `generate_latent_points`, `grid`.
- Training: `train` takes a `GAN` (networks, optimizers, a loss) through a `Dataset` as a
  `TrainConfig` says, tells each `Callback`, and saves in `Checkpoints` of a `RunFolder`.
- The pieces of a loop of your own: `train_step`, `train_steps`, `shuffle`, `run_keys`, `Batch`.
- More devices, more runs: `data_mesh`, `train_members`.
- In modules of their own: `callbacks`, `losses`, `data`, measures of quality in `metrics`, weights
  for and from PyTorch in `interop`, `config`, `errors`.

Whatever a user can mend raises a `CGANError`. The repository has a tutorial, docs/tutorial.md. The
public names are listed in `__init__.pyi`; each is imported when it is first used, so that
`import cgan_jax` costs nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
