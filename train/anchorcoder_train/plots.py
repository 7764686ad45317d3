"""Plots without a screen, all in one style."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def figure(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """One plot with named axes."""
    drawn, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return drawn, axes


def save(drawn: Figure, path: Path) -> None:
    """Writes a plot, by the ending of its name, and forgets it."""
    drawn.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(drawn)
