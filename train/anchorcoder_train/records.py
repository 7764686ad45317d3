"""What a run writes down: a CSV table that goes on where it was cut, and plots of it."""

import csv
from pathlib import Path
from typing import Any

from .plots import figure, save


class Table:
    """Rows by step in a CSV file."""

    def __init__(self, path: Path, columns: list[str]) -> None:
        self.path, self.columns = path, columns

    def cut(self, step: int) -> None:
        """Keeps the rows up to `step`, for a run that goes on from there."""
        kept = [row for row in self.rows() if int(row["step"]) <= step]
        with open(self.path, "w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(kept)

    def add(self, row: dict[str, Any]) -> None:
        with open(self.path, "a", newline="") as file:
            csv.DictWriter(file, self.columns, restval="").writerow(row)

    def rows(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with open(self.path, newline="") as file:
            return list(csv.DictReader(file))


def plot(log: Table, valid: Table, path: Path) -> None:
    """Loss, and what was measured on validation text, by step."""
    drawn, axes = figure("Loss", "step", "nats per token")
    for column in ("loss", "kl", "next_token"):
        points = [(int(row["step"]), float(row[column])) for row in log.rows() if row[column]]
        if points:
            axes.plot(*zip(*points), label=column, linewidth=1)
    measured = [(int(row["step"]), float(row["nats_per_byte"])) for row in valid.rows()]
    if measured:
        axes.plot(*zip(*measured), marker="o", markersize=3, label="validation, nats per byte")
    axes.legend()
    save(drawn, path)
