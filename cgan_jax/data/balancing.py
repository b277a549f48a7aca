"""The order of the images in an epoch with equally many images of each class.

The order in which each image comes once per epoch is `cgan_jax.data.sources.epoch_order`'s.
"""

import jax
import numpy as np
from jax import random


def balanced_order(labels: np.ndarray, key: jax.Array, epoch: int) -> np.ndarray:
    """Which images an epoch takes, and in which order, so that its classes are equally frequent.

    The classes of an epoch's images differ in number by one at most, and come in a random order.
    A class whose images have all been taken starts over in a new order, in the middle of an epoch
    or after several: until then no image of it is repeated. Computed on the host.

    Args:
        labels: integers `[N]`; classes without images are left out.
        key: `RunKeys.order`.
        epoch: counted from 0.

    Returns:
        indices of images, int32 `[N]`.
    """
    seed = np.asarray(random.key_data(key)).ravel()

    def permutation(values: np.ndarray, *stream: int) -> np.ndarray:
        sequence = np.random.SeedSequence(seed, spawn_key=stream)
        return np.random.default_rng(sequence).permutation(values)

    classes = np.unique(labels)
    draws_N = epoch * len(labels) + np.arange(len(labels))  # counted since the run began
    classes_N = permutation(draws_N % len(classes), 0, epoch)
    order_N = np.empty(len(labels), np.int32)
    for place, label in enumerate(classes):
        members = np.flatnonzero(labels == label)
        draws = draws_N[draws_N % len(classes) == place] // len(classes)  # of this class
        cycles = range(draws[0] // len(members), draws[-1] // len(members) + 1)
        orders = [permutation(members, 1 + place, cycle) for cycle in cycles]
        order_N[classes_N == place] = np.concatenate(orders)[draws - cycles[0] * len(members)]
    return order_N
