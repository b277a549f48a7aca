"""The callbacks of `cgan_jax.train`: the base class, its events, and those that write files.

They are defined in cgan_jax/training/callbacks.py and cgan_jax/reporting/.
"""

from cgan_jax.reporting.callbacks import LossesTable, SampleGrids, TensorBoard
from cgan_jax.reporting.measures import BestCheckpoint, MeasuresTable
from cgan_jax.training.callbacks import Callback, EpochEnd, SpanEnd

__all__ = [
    "BestCheckpoint",
    "Callback",
    "EpochEnd",
    "LossesTable",
    "MeasuresTable",
    "SampleGrids",
    "SpanEnd",
    "TensorBoard",
]
