"""Leaves out texts that are there already, the same or nearly: MinHash over pairs of lines."""

import hashlib
import zlib

import numpy as np

_ROWS, _BANDS = 8, 16  # finds pairs from a similarity of about 0.7 on, nearly all from 0.8 on


def _fingerprints(text: str) -> np.ndarray:
    """(pairs) uint64 hashes of each line that is not blank with the one behind it."""
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    pairs = zip(lines, [*lines[1:], ""])
    return np.array([zlib.crc32("\n".join(pair).encode()) for pair in pairs], dtype=np.uint64)


class Duplicates:
    """Remembers what it has seen."""

    def __init__(self, similarity: float = 0.8) -> None:
        self.similarity = similarity
        random = np.random.default_rng(0)
        size = (_BANDS * _ROWS, 1)
        # Odd factors, so that multiplication modulo 2^64 loses nothing.
        self._factors = random.integers(0, 2**63, size, dtype=np.uint64) * 2 + 1
        self._offsets = random.integers(0, 2**63, size, dtype=np.uint64)
        self._texts: set[bytes] = set()
        self._signatures: list[np.ndarray] = []
        self._bands: dict[tuple[int, bytes], list[int]] = {}

    def _signature(self, text: str) -> np.ndarray | None:
        """(bands * rows) uint32, None for a text without letters."""
        prints = np.unique(_fingerprints(text))
        if len(prints) == 0:
            return None
        hashes = (self._factors * prints + self._offsets) >> np.uint64(32)
        return hashes.min(axis=1).astype(np.uint32)

    def is_new(self, text: str) -> bool:
        """Whether nothing like it was asked about before; if so, it is remembered."""
        digest = hashlib.sha256(text.encode()).digest()
        if digest in self._texts:
            return False
        self._texts.add(digest)
        signature = self._signature(text)
        if signature is None:
            return False
        keys = [(band, rows.tobytes()) for band, rows in enumerate(signature.reshape(_BANDS, -1))]
        near = {known for key in keys for known in self._bands.get(key, ())}
        alike = (float((self._signatures[one] == signature).mean()) for one in near)
        if any(share >= self.similarity for share in alike):
            return False
        for key in keys:
            self._bands.setdefault(key, []).append(len(self._signatures))
        self._signatures.append(signature)
        return True
