"""Class-conditional GANs in JAX and Flax.

- Images of a trained run: `load_generator`, `TrainedGenerator`, `generate_latent_points`, `grid`;
  the latent points of pictures: `invert`, `Inverted`, `load_inverted`.
- Training: `train` takes a `GAN` (networks, optimizers, a loss), a `TrainConfig` and a `Dataset`,
  calls each `Callback`, and saves `Checkpoints` in a `RunFolder`. `PRESETS` are complete settings;
  `init_from` takes the weights of another run.
- The parts of your own loop: `train_step`, `train_steps`, `shuffle`, `run_keys`, `Batch`.
- Several devices or runs: `data_mesh`, `train_members`.
- In their own modules: `callbacks`, `losses`, `data`, `metrics` (measures of quality), `interop`
  (weights and programs of other frameworks), `config`, `presets`, `errors`.

Every error that a user can correct is a `CGANError`. The repository has a tutorial,
docs/tutorial.md. The public names are listed in `__init__.pyi`. Each is imported on first use, so
that `import cgan_jax` is fast.
"""

from typing import Any

import lazy_loader

_import_public_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("cgan_jax")
    return _import_public_name(name)
