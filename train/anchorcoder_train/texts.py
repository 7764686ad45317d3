"""Files of source code as `Document`s: read from JSON lines, or written to them.

A line is `{"l": language, "p": package, "f": path, "t": text}`, and may have `"s"`, a licence by
its SPDX name. Line ends, tabs and long lines stay as they are.
"""

import io
import json
import lzma
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Document:
    """One file of a package."""

    language: str
    package: str
    path: str
    text: str
    licence: str = ""


def _open(path: Path, mode: str) -> io.TextIOWrapper:
    opener = lzma.open if path.suffix == ".xz" else open
    return opener(path, mode + "t", encoding="utf-8", newline="\n")


def read_lines(path: str | Path, limit: int | None = None) -> Iterator[Document]:
    """The documents of a .jsonl or .jsonl.xz file, the first `limit` of them."""
    with _open(Path(path), "r") as file:
        for number, line in enumerate(file):
            if number == limit:
                return
            entry = json.loads(line)
            licence = entry.get("s", "")
            yield Document(entry["l"], entry["p"], entry["f"], entry["t"], licence)


def write_lines(path: str | Path, documents: Iterable[Document]) -> int:
    """Writes documents as JSON lines; returns how many."""
    count = 0
    with _open(Path(path), "w") as file:
        for one in documents:
            entry = {"l": one.language, "p": one.package, "f": one.path, "t": one.text}
            if one.licence:
                entry["s"] = one.licence
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            count += 1
    return count
