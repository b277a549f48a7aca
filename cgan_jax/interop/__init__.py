"""Import from and export to other frameworks. The public names are listed in `__init__.pyi`.

Each is imported when it is first used: those for PyTorch's weights need neither JAX nor PyTorch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
