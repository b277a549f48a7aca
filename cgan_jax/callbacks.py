"""The callbacks of `cgan_jax.train`: the base class, its events, and those that write files.

They are defined in cgan_jax/training/callbacks.py and cgan_jax/reporting/.
"""

from cgan_jax.reporting.callbacks import LossesTable, SampleGrids, TensorBoard
from cgan_jax.reporting.measures import BestCheckpoint, MeasuresTable
from cgan_jax.training.callbacks import (
    Callback,
    ChunkEnd,
    EpochEnd,
    StopWhen,
    TrainEnd,
    TrainStart,
)
from cgan_jax.training.progress import Progress

__all__ = [
    "BestCheckpoint",
    "Callback",
    "ChunkEnd",
    "EpochEnd",
    "LossesTable",
    "MeasuresTable",
    "Progress",
    "SampleGrids",
    "StopWhen",
    "TensorBoard",
    "TrainEnd",
    "TrainStart",
]
