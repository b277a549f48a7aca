"""The running average of the generator: what is sampled, measured and exported where it is kept.

An average is a function; `GAN(average=...)` takes any with the signature of `Average`.
"""

from typing import Any, Protocol

import jax


class Average(Protocol):
    """One step of a running average."""

    def __call__(self, average: Any, variables: Any, step: jax.Array) -> Any:
        """Take the generator's newest variables into the average.

        Args:
            average: the average so far; before the first step, the generator's first variables.
            variables: the generator's `params` and `batch_stats` after this step's update. Average
                both: averaged parameters with unaveraged statistics are a mixture of two networks.
            step: int32 scalar, how many steps are done, this one included.

        Returns:
            the new average, a tree like `variables`.
        """
