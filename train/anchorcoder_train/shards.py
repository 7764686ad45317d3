"""Packed ids on disk: one stream of documents, memory-mapped, read in windows.

A folder holds `ids-00000.bin` and so on, little-endian uint16 or uint32, and `shards.json`. A
document is the tokenizer's first ids, its own ids with anchors, and the end of text where that is
another id than the first. A document with a hole is written suffix first, as the engine reads it.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .texts import Document
from .vocabulary import PREFIX, SUFFIX, Vocabulary

IDS_PER_FILE = 1 << 26
_DOCUMENTS_AT_ONCE = 256


class Writer:
    """Turns documents into ids."""

    def __init__(
        self, vocabulary: Vocabulary, insert: int | None, indent: str, holes: float, seed: int
    ) -> None:
        """`holes`: share of the documents that get a hole; their places depend on `seed`, the pass
        and the document's number alone."""
        self.vocabulary, self.insert, self.indent = vocabulary, insert, indent
        self.holes, self.seed = holes, seed
        self.first = vocabulary.first_ids
        end = vocabulary.eos_id
        # Packed behind each other, documents share an end of text that is also their beginning.
        self.last = [end] if end is not None and [end] != self.first else []
        if holes > 0:
            places = (PREFIX, SUFFIX)
            self.format = [
                part if part in places else vocabulary.id_of(part)
                for part in vocabulary.hole_format
            ]

    def _encode(self, texts: list[str], continued: bool = False) -> list[list[int]]:
        return self.vocabulary.encode_anchored(texts, self.insert, self.indent, continued)

    def _cuts(self, text: str, key: Sequence[int]) -> tuple[int, int] | None:
        """Where the hole of a document is, None for a document without one."""
        random = np.random.default_rng([self.seed, *key])
        if random.random() >= self.holes or not text:
            return None
        low, high = sorted(random.integers(0, len(text) + 1, 2).tolist())
        return low, high

    def encode(self, texts: list[str], keys: list[tuple[int, int]]) -> list[list[int]]:
        """Ids of whole documents; `keys` are their passes and numbers."""
        cuts = [self._cuts(text, key) for text, key in zip(texts, keys)]
        heads = self._encode(
            [text if cut is None else text[: cut[0]] for text, cut in zip(texts, cuts)]
        )
        holed = [(text, cut) for text, cut in zip(texts, cuts) if cut is not None]
        middles = iter(self._encode([text[a:b] for text, (a, b) in holed], continued=True))
        suffixes = iter(self._encode([text[b:] for text, (_, b) in holed], continued=True))
        out = []
        for head, cut in zip(heads, cuts):
            ids = list(self.first)
            if cut is None:
                ids += head
            else:
                texts_of = {PREFIX: head, SUFFIX: next(suffixes)}
                for part in self.format:
                    ids += texts_of[part] if isinstance(part, str) else [part]
                ids += next(middles)
            out.append(ids + self.last)
        return out


def write_shards(
    documents: list[Document],
    writer: Writer,
    out: Path,
    passes: int = 1,
    per_file: int = IDS_PER_FILE,
) -> dict[str, object]:
    """Writes `passes` times all documents, each time in another order and with other holes.
    Returns what `shards.json` says."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("ids-*.bin"):
        old.unlink()
    size = writer.vocabulary.size
    dtype = np.dtype("<u2" if size <= 1 << 16 else "<u4")
    counts: list[int] = []
    file = None
    for ids in _encoded(documents, writer, passes):
        array = np.array(ids, dtype=dtype)
        while len(array) > 0:
            if file is None or counts[-1] == per_file:
                if file is not None:
                    file.close()
                file = open(out / f"ids-{len(counts):05d}.bin", "wb")  # noqa: SIM115
                counts.append(0)
            part = array[: per_file - counts[-1]]
            file.write(part.tobytes())
            counts[-1] += len(part)
            array = array[len(part) :]
    if file is None:
        raise ValueError("there are no documents to write")
    file.close()
    about = {
        "dtype": dtype.str,
        "vocabulary": size,
        "files": counts,
        "documents": len(documents),
        "passes": passes,
        "bytes": sum(len(one.text.encode()) for one in documents),
        "insert": writer.insert,
        "indent": writer.indent,
        "holes": writer.holes,
        "seed": writer.seed,
    }
    (out / "shards.json").write_text(json.dumps(about, indent=1) + "\n")
    return about


def _encoded(documents: list[Document], writer: Writer, passes: int) -> Iterator[list[int]]:
    total = passes * len(documents)
    with tqdm(total=total, unit="file") as bar:
        for turn in range(passes):
            order = np.random.default_rng([writer.seed, turn]).permutation(len(documents)).tolist()
            for start in range(0, len(order), _DOCUMENTS_AT_ONCE):
                numbers = order[start : start + _DOCUMENTS_AT_ONCE]
                texts = [documents[number].text for number in numbers]
                yield from writer.encode(texts, [(turn, number) for number in numbers])
                bar.update(len(numbers))


class Shards:
    """The ids of a folder as one stream."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.about = json.loads((folder / "shards.json").read_text())
        dtype = np.dtype(self.about["dtype"])
        names = [folder / f"ids-{number:05d}.bin" for number in range(len(self.about["files"]))]
        self._parts = [np.memmap(name, dtype=dtype, mode="r") for name in names]
        found = [len(part) for part in self._parts]
        if found != self.about["files"]:
            raise ValueError(f"{folder}: expected {self.about['files']} ids in its files, {found}")
        self._starts = np.concatenate([[0], np.cumsum(found)])

    def __len__(self) -> int:
        """Number of ids."""
        return int(self._starts[-1])

    def slice(self, start: int, length: int) -> np.ndarray:
        """(length) int64 ids from `start` on, across files."""
        if start < 0 or start + length > len(self):
            raise IndexError(f"ids {start} to {start + length} of {len(self)}")
        out = np.empty(length, dtype=np.int64)
        filled = 0
        part = int(np.searchsorted(self._starts, start, side="right")) - 1
        while filled < length:
            at = start + filled - int(self._starts[part])
            piece = self._parts[part][at : at + length - filled]
            out[filled : filled + len(piece)] = piece
            filled += len(piece)
            part += 1
        return out


class Windows:
    """Batches of windows in a random order: what a step reads depends on the seed alone, so that
    a run that is taken up again reads what it would have read."""

    def __init__(self, shards: Shards, length: int, seed: int) -> None:
        self.shards, self.length, self.seed = shards, length, seed
        # The last id of a window is the target of the one before it, and the next window's first.
        self.count = (len(shards) - 1) // length
        if self.count < 1:
            raise ValueError(f"{len(shards)} ids are less than one window of {length}")
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def window(self, number: int) -> np.ndarray:
        """(length + 1) ids of the window that is read as number `number` of the run."""
        epoch, place = divmod(number, self.count)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.count)
        return self.shards.slice(int(self._order[place]) * self.length, self.length + 1)

    def batch(self, first: int, size: int) -> np.ndarray:
        """(size, length + 1) ids of `size` windows from number `first` on."""
        return np.stack([self.window(first + i) for i in range(size)])
