"""Plots of numbers. Pictures of images are in grids.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NUMBERS = 40  # classes whose confusion is drawn with numbers


def _figure(width: float, height: float) -> "Figure":
    """An empty figure, in inches."""
    from matplotlib.figure import Figure  # slow

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def plot_losses(losses: np.ndarray, steps_per_epoch: int, path: Path) -> None:
    """Draw both losses over the epochs: each step's faintly, a running mean on top.

    Args:
        losses: `[steps, 2]`: d_loss and g_loss.
        steps_per_epoch: scales the x axis.
        path: the PNG file to write.
    """
    figure = _figure(9, 4.5)
    axes = figure.add_subplot()
    epochs = np.arange(len(losses)) / steps_per_epoch
    width = max(1, min(steps_per_epoch, len(losses) // 50))
    stride = max(1, len(losses) // 4000)
    smoothed = f" (mean of {width} steps)" if width > 1 else ""
    for column, (name, colour) in enumerate([("discriminator", "C0"), ("generator", "C1")]):
        values = losses[:, column]
        axes.plot(epochs[::stride], values[::stride], colour, alpha=0.25, linewidth=0.6)
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        centre = epochs[(width - 1) // 2 :][: len(smooth)]
        axes.plot(centre, smooth, colour, linewidth=1.8, label=name + smoothed)
    axes.set(xlabel="epoch", ylabel="loss", xlim=(0, max(epochs[-1], 1e-9)))
    if losses.min() >= 0:  # hinge's generator loss may be negative
        axes.set_ylim(0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper right")  # the best place takes long to find
    figure.savefig(path)


def plot_confusion(
    matrices: Mapping[str, np.ndarray], class_names: Sequence[str], path: Path
) -> None:
    """Draw the predicted class of images, in per cent of their own class; 0 is left blank.

    More than 40 classes have colours alone, and smaller names.

    Args:
        matrices: counts `[classes, classes]` by title, one row per requested or true class.
        class_names: one per class.
        path: the PNG file to write.
    """
    n = len(class_names)
    size = 1.6 + 0.42 * min(n, MOST_NUMBERS)
    names = {"fontsize": min(10, 10 * MOST_NUMBERS / n)}
    figure = _figure(size * len(matrices), size)
    places = np.arange(n)
    for axes, (title, counts) in zip(
        figure.subplots(1, len(matrices), squeeze=False)[0], matrices.items(), strict=True
    ):
        share = 100 * counts / np.maximum(1, counts.sum(1, keepdims=True))
        axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
        numbered = share >= 1 if n <= MOST_NUMBERS else np.zeros_like(share)
        for row, column in zip(*np.nonzero(numbered), strict=True):
            value = share[row, column]
            colour = "white" if value > 55 else "black"
            axes.text(
                column, row, f"{value:.0f}", color=colour, ha="center", va="center", fontsize=8
            )
        axes.set_xticks(
            places, class_names, rotation=45, ha="right", rotation_mode="anchor", **names
        )
        axes.set_yticks(places, class_names, **names)
        axes.set(title=f"{title}, per cent", xlabel="predicted class", ylabel="class")
    figure.savefig(path, bbox_inches="tight")


def plot_per_class(
    values: Mapping[str, Mapping[str, Sequence[float]]], class_names: Sequence[str], path: Path
) -> None:
    """Draw measures of each class as bars, one row per measure.

    Args:
        values: by the measure's title, then by the images' name, one value per class.
        class_names: one per class.
        path: the PNG file to write.
    """
    figure = _figure(9, 2.3 * len(values) + 0.6)
    places = np.arange(len(class_names))
    rows = figure.subplots(len(values), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, bars) in zip(rows, values.items(), strict=True):
        width = 0.8 / len(bars)
        for i, (who, heights) in enumerate(bars.items()):
            axes.bar(places + (i + 0.5) * width - 0.4, heights, width, label=who, color=f"C{i}")
        axes.set_title(title, fontsize=10, loc="left")
        axes.grid(axis="y", alpha=0.3)
    rows[0].legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    rows[-1].set_xticks(places, class_names, rotation=30, ha="right", rotation_mode="anchor")
    figure.savefig(path)


def plot_comparison(
    values: Mapping[str, Sequence[float]],
    real: Mapping[str, float],
    names: Sequence[str],
    path: Path,
) -> None:
    """Draw measures of several runs, one panel each: one dot per run, their mean and spread.

    Args:
        values: by the measure's name, one value per run.
        real: the same of real images, where it is known.
        names: one per run.
        path: the PNG file to write.
    """

    columns = min(4, len(values))
    rows = -(-len(values) // columns)
    figure = _figure(3 * columns, 2.6 * rows + 0.8)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    places = np.arange(len(names))
    for axes, (name, dots) in zip(panels, values.items(), strict=False):
        mean, sd = np.mean(dots), np.std(dots, ddof=1)
        axes.axhspan(mean - sd, mean + sd, color="C0", alpha=0.15, linewidth=0)
        axes.axhline(mean, color="C0", linewidth=1.2)
        axes.plot(places, dots, "C0o")
        if name in real:
            axes.axhline(real[name], color="C1", linestyle="--", linewidth=1.2)
        axes.set_title(name, fontsize=10)
        axes.set_xticks(places, names, rotation=30, ha="right", rotation_mode="anchor", fontsize=8)
        axes.margins(x=0.2, y=0.15)
        axes.grid(axis="y", alpha=0.3)
    for axes in panels[len(values) :]:
        axes.set_axis_off()
    figure.suptitle("dots: runs; band: mean ± sd; dashed: real images", fontsize=10)
    figure.savefig(path)


def plot_measures(epochs: Sequence[int], values: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw measures over the epochs, one panel each.

    Args:
        epochs: when they were taken.
        values: by the measure's name, one value for each of these epochs.
        path: the PNG file to write.
    """
    figure = _figure(3.2 * len(values), 3)
    panels = figure.subplots(1, len(values), squeeze=False)[0]
    for axes, (name, curve) in zip(panels, values.items(), strict=True):
        axes.plot(epochs, curve, "C0.-")
        axes.set(title=name, xlabel="epoch")
        axes.grid(alpha=0.3)
    figure.savefig(path)


def plot_curves(
    curves: Mapping[str, Sequence[Mapping[str, Sequence[float]]]],
    x_label: str,
    real: Mapping[str, float],
    path: Path,
) -> None:
    """Draw measures against time, one panel each: one colour per recipe, one line per run.

    Args:
        curves: by the recipe's name, its runs: `x`, larger than 0, and the measures by name.
        x_label: what `x` is; its scale is logarithmic.
        real: a line in each panel, by the measure's name.
        path: the PNG file to write.
    """
    figure = _figure(3.6 * len(real), 3.6)
    panels = figure.subplots(1, len(real), squeeze=False)[0]
    for axes, (measure, value) in zip(panels, real.items(), strict=True):
        for i, (name, runs) in enumerate(curves.items()):
            for j, run in enumerate(runs):
                label = None if j else name
                axes.plot(run["x"], run[measure], f"C{i}.-", linewidth=1.2, label=label)
        axes.axhline(value, color="black", linestyle="--", linewidth=1, label="real images")
        axes.set(title=measure, xlabel=x_label, xscale="log")
        if axes.get_ylim()[1] > 2:  # a distance, which falls by orders of magnitude
            axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(lambda *_: "")
        axes.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    figure.savefig(path)
