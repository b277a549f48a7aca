"""Class-conditional GANs in JAX and Flax. The public names are listed in `__init__.pyi`.

Each is imported when it is first used, so that `import cgan_jax` costs nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
