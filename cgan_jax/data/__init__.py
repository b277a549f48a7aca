"""Where images come from: `load` finds a data set by name, `Dataset` holds one.

Only names are gathered here; each module beside this one says what it does.
"""

from cgan_jax.data.dataset import Dataset
from cgan_jax.data.resolve import load
from cgan_jax.data.spec import SPECS

__all__ = ["SPECS", "Dataset", "load"]
