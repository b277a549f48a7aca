"""Data as a Dataset: `load` finds Fashion-MNIST, the other functions read your own images.

__init__.pyi lists the names; each module is imported when one of its names is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
