"""A corpus from source trees: permissive packages, no duplicates, split by package."""

import hashlib
import json
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from .duplicates import Duplicates
from .licences import is_permissive
from .texts import Document, write_lines
from .trees import documents_of, packages_in


def is_valid(package: str, share: float, seed: int) -> bool:
    """Whether a package belongs to the validation text: decided by its name alone, so that a
    package stays on its side when others come and go."""
    digest = hashlib.blake2b(f"{seed}/{package}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def build_corpus(
    roots: list[Path], out: Path, *, share: float, seed: int, largest: int
) -> dict[str, object]:
    """Writes `train.jsonl.xz`, `valid.jsonl.xz` and `packages.json` to `out`.

    Texts are compared across both sides before they are split, so the two share no file. Returns
    counts of what was taken and what was left out, and why.
    """
    out.mkdir(parents=True, exist_ok=True)
    seen = Duplicates()
    counts: Counter[str] = Counter()
    sides: dict[str, list[Document]] = {"train": [], "valid": []}
    listed = []
    every = [package for root in roots for package in packages_in(root)]
    for package in tqdm(every, unit="package"):
        if not is_permissive(package.licence):
            counts["packages without a permissive licence"] += 1
            continue
        side = "valid" if is_valid(package.name, share, seed) else "train"
        kept = 0
        for document in documents_of(package, largest):
            if seen.is_new(document.text):
                sides[side].append(document)
                kept += 1
            else:
                counts["duplicates"] += 1
        if kept > 0:
            listed.append(
                {
                    "name": package.name,
                    "version": package.version,
                    "licence": package.licence,
                    "files": kept,
                    "side": side,
                }
            )
    for side, documents in sides.items():
        counts[f"{side} files"] = write_lines(out / f"{side}.jsonl.xz", documents)
        counts[f"{side} bytes"] = sum(len(one.text.encode()) for one in documents)
    (out / "packages.json").write_text(json.dumps(listed, indent=1) + "\n")
    return dict(counts)
