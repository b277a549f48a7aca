"""Quality measures of generated images: functions on arrays, each usable alone.

Most compare features, `[N, F]` arrays of any network's activations; `reference.py` has those of the
classifier that this package contains. `measures.py` lists all of them by name.
"""

from cgan_jax.metrics.classification import ConfusionMatrix, confusion_matrix
from cgan_jax.metrics.diversity import nearest_neighbours, within_class_diversity
from cgan_jax.metrics.frechet import frechet_distance, intra_frechet_distances
from cgan_jax.metrics.kernel import kernel_distance
from cgan_jax.metrics.likelihood import FeatureLikelihood, FeatureLikelihoodDivergence
from cgan_jax.metrics.manifold import Manifold, manifold_measures

__all__ = [
    "ConfusionMatrix",
    "FeatureLikelihood",
    "FeatureLikelihoodDivergence",
    "Manifold",
    "confusion_matrix",
    "frechet_distance",
    "intra_frechet_distances",
    "kernel_distance",
    "manifold_measures",
    "nearest_neighbours",
    "within_class_diversity",
]
