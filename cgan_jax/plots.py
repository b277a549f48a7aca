"""Plots of numbers. Pictures of images are images.py's."""

from pathlib import Path

import numpy as np


def plot_losses(losses: np.ndarray, steps_per_epoch: int, path: Path) -> None:
    """Draw both losses over the epochs: each step's faintly, a running mean on top.

    Args:
        losses: `[steps, 2]`: d_loss and g_loss.
        steps_per_epoch: scales the x axis.
        path: the PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    epochs = np.arange(len(losses)) / steps_per_epoch
    width = max(1, min(steps_per_epoch, len(losses) // 50))
    stride = max(1, len(losses) // 4000)
    for column, (name, colour) in enumerate([("discriminator", "C0"), ("generator", "C1")]):
        values = losses[:, column]
        axes.plot(epochs[::stride], values[::stride], colour, alpha=0.25, linewidth=0.6)
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        centre = epochs[(width - 1) // 2 :][: len(smooth)]
        axes.plot(centre, smooth, colour, linewidth=1.8, label=f"{name} (mean of {width} steps)")
    axes.set(xlabel="epoch", ylabel="loss", xlim=(0, max(epochs[-1], 1e-9)))
    axes.set_ylim(0, None)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path)
