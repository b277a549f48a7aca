"""Where images come from: `load` finds Fashion-MNIST, the others read your own, as a Dataset.

Only names are gathered here, in __init__.pyi, each imported when it is first used; each module
beside this one says what it does.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
