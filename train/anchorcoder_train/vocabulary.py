"""Text to ids as the engine makes them: anchors behind newlines, and what every id adds to a text.

The rules are those of `lib/tokenizer-*.ts`; `tests/test_vocabulary.py` compares ids of odd texts.
Text is never parsed for control tokens: a file that spells one is text like any other.
"""

import json
import shutil
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from .settings import ANCHOR_TEXT, Words

BLANK_MARK = "\u2581"
# Marks around a hole are never text, whatever a tokenizer's flags say.
_MARK_SETS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
)
_ROLES = ["bos", "eos", "unk", "sep", "pad", "cls", "mask", "prefix", "middle", "suffix", "eot"]
_NO_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False}
PREFIX, SUFFIX = "{prefix}", "{suffix}"
_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_FILES += ("added_tokens.json", "chat_template.jinja")
Json = dict[str, Any]


def copy_tokenizer(folder: Path, out: Path) -> None:
    """Copies what belongs to a tokenizer, of whatever is there."""
    out.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        if (folder / name).exists():
            shutil.copyfile(folder / name, out / name)


def _read(folder: Path, name: str) -> Json:
    path = folder / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _content(token: object) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _parts(component: Json | None) -> list[Json]:
    """All parts of a pipeline of tokenizer.json, those inside sequences in their place."""
    if not component:
        return []
    if component["type"] != "Sequence":
        return [component]
    inside = ("normalizers", "pretokenizers", "decoders", "processors")
    return [part for key in inside for child in component.get(key, []) for part in _parts(child)]


def _without_blank(component: Json | None) -> Json | None:
    """The same for text that goes on: nothing is put in front of it."""
    for part in _parts(component):
        if part["type"] in ("ByteLevel", "Metaspace"):
            part["add_prefix_space"] = False
        if part["type"] == "Metaspace":
            part["prepend_scheme"] = "never"
        if part["type"] == "Prepend":
            part["prepend"] = ""
    return component


def _letters() -> dict[str, int]:
    """The letters of byte-level vocabularies: printable Latin-1 is itself, others U+0100 up."""
    itself = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in itself]
    return {chr(b): b for b in itself} | {chr(0x100 + i): b for i, b in enumerate(others)}


class Vocabulary:
    """The tokenizer of a model folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._json = _read(self.folder, "tokenizer.json")
        if not self._json:
            raise ValueError(f"{self.folder} has no tokenizer.json")
        self._config = _read(self.folder, "tokenizer_config.json")
        self._json.update(truncation=None, padding=None)
        self._add_from_other_files()
        self._mark_special()
        self._processor, self._json["post_processor"] = self._json.get("post_processor"), None
        whole = json.dumps(self._json)
        goes_on = json.loads(whole)
        for key in ("normalizer", "pre_tokenizer"):
            goes_on[key] = _without_blank(goes_on.get(key))
        self._first, self._next = (
            Tokenizer.from_str(text) for text in (whole, json.dumps(goes_on))
        )
        self._first.encode_special_tokens = self._next.encode_special_tokens = True

    def _add_from_other_files(self) -> None:
        """Added tokens that tokenizer.json does not list."""
        decoder = self._config.get("added_tokens_decoder") or {}
        others = [{**token, "id": int(id)} for id, token in decoder.items()]
        for content, id in _read(self.folder, "added_tokens.json").items():
            others.append({"content": content, "id": id})
        listed = self._json.setdefault("added_tokens", [])
        have = {token["content"]: token for token in listed}
        for token in others:
            if token["content"] in have:
                known = have[token["content"]]
                known["special"] = known["special"] or token.get("special", False)
                continue
            token = {"special": False, **_NO_FLAGS, **token}
            token.setdefault("normalized", not token["special"])
            listed.append(token)
            have[token["content"]] = token

    def _mark_special(self) -> None:
        """Flags as control tokens what the files name by a role, anchors and marks."""
        roles = {**_read(self.folder, "special_tokens_map.json"), **self._config}
        named = [_content(roles.get(f"{role}_token")) for role in _ROLES]
        for key in ("additional_special_tokens", "extra_special_tokens"):
            listed = self._config.get(key) or []
            values = listed.values() if isinstance(listed, dict) else listed
            named += [_content(value) for value in values]
        special = {*named, ANCHOR_TEXT, *(mark for marks in _MARK_SETS for mark in marks)}
        for token in self._json["added_tokens"]:
            token["special"] = token["special"] or token["content"] in special
        have = {token["content"] for token in self._json["added_tokens"]}
        vocabulary = self._json["model"]["vocab"]
        for text in sorted(special - have - {None}):
            if text in vocabulary:
                flags = {"special": True, "normalized": False, **_NO_FLAGS}
                listed = {"id": vocabulary[text], "content": text, **flags}
                self._json["added_tokens"].append(listed)
        self._json["added_tokens"].sort(key=lambda token: token["id"])

    @cached_property
    def added(self) -> dict[str, int]:
        """Control and added tokens by text."""
        return {token["content"]: token["id"] for token in self._json["added_tokens"]}

    @cached_property
    def control_ids(self) -> list[int]:
        return sorted({t["id"] for t in self._json["added_tokens"] if t["special"]})

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(*self._json["model"]["vocab"].values(), *self.added.values(), -1) + 1

    def id_of(self, text: str) -> int:
        """The id of a token by its text. Raises ValueError if there is none."""
        found = self.added.get(text, self._json["model"]["vocab"].get(text))
        if found is None:
            raise ValueError(f"the tokenizer in {self.folder} has no token {text!r}")
        return found

    @property
    def anchor_id(self) -> int | None:
        return self.added.get(ANCHOR_TEXT)

    def _named(self, name: str) -> int | None:
        """The id that a config names, else that of the tokenizer's token of that name."""
        for file in ("generation_config.json", "config.json"):
            found = _read(self.folder, file).get(f"{name}_token_id")
            if found is not None:
                return found[0] if isinstance(found, list) else found
        text = _content(self._config.get(f"{name}_token"))
        return None if text is None else self.id_of(text)

    @cached_property
    def bos_id(self) -> int | None:
        return self._named("bos")

    @cached_property
    def eos_id(self) -> int | None:
        return self._named("eos")

    @cached_property
    def first_ids(self) -> list[int]:
        """Ids in front of every text."""
        for part in _parts(self._processor):
            if part["type"] == "TemplateProcessing":
                before: list[int] = []
                for item in part["single"]:
                    if "Sequence" in item:
                        break
                    before.append(self.id_of(item["SpecialToken"]["id"]))
                if before:
                    return before
            elif part["type"] in ("BertProcessing", "RobertaProcessing"):
                return [self.id_of(part["cls"][0])]
        text = _content(self._config.get("bos_token"))
        kind = str(self._config.get("tokenizer_class", "")).removesuffix("Fast")
        adds = self._config.get("add_bos_token")
        if adds is None:
            adds = kind in ("LlamaTokenizer", "CodeLlamaTokenizer")
        return [self.id_of(text)] if adds and text is not None else []

    @cached_property
    def bytes_of(self) -> list[bytes]:
        """(size) What every id adds to a text; control tokens add nothing."""
        pipeline = _parts(self._json.get("decoder")) + _parts(self._json.get("pre_tokenizer"))
        by_letters = any(part["type"] == "ByteLevel" for part in pipeline)
        letters = _letters()
        table = [b""] * self.size
        for piece, id in self._json["model"]["vocab"].items():
            if by_letters and all(letter in letters for letter in piece):
                table[id] = bytes(letters[letter] for letter in piece)
            elif len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
                table[id] = bytes([int(piece[3:5], 16)])
            else:
                table[id] = piece.replace(BLANK_MARK, " ").encode()
        for token in self._json["added_tokens"]:
            table[token["id"]] = b"" if token["special"] else token["content"].encode()
        return table

    @cached_property
    def byte_counts(self) -> np.ndarray:
        """(size) int64"""
        return np.array([len(own) for own in self.bytes_of], dtype=np.int64)

    @cached_property
    def newline_ids(self) -> list[int]:
        """Every id whose bytes hold a newline."""
        return [id for id, own in enumerate(self.bytes_of) if b"\n" in own]

    @cached_property
    def _sole_newline(self) -> int | None:
        ids = self.newline_ids
        return ids[0] if len(ids) == 1 and self.bytes_of[ids[0]] == b"\n" else None

    def inserted_id(self, words: Words | None) -> int | None:
        """The id that these settings insert after newlines, None where they insert none."""
        words = words or {}
        if "insert" in words:
            insert = words["insert"]
            return self.id_of(insert) if isinstance(insert, str) else insert
        tokens = words.get("tokens")
        listed = tokens is None or (tokens != "newline" and self.anchor_id in tokens)
        return self.anchor_id if listed else None

    def encode(self, texts: Sequence[str], continued: bool = False) -> list[list[int]]:
        """Ids of texts without anything in front. `continued`: they go on from earlier text."""
        tokenizer = self._next if continued else self._first
        return [part.ids for part in tokenizer.encode_batch_fast(list(texts))]

    def encode_anchored(
        self,
        texts: Iterable[str],
        insert: int | None,
        indent: str = "none",
        continued: bool = False,
    ) -> list[list[int]]:
        """Ids of texts with `insert` behind every newline, nowhere if it is None."""
        texts = list(texts)
        if indent == "tab4":
            texts = [text.replace("    ", "\t") for text in texts]
        if insert is None:
            return self.encode(texts, continued)
        if self._sole_newline is not None:
            whole = self.encode(texts, continued)
            fits = [ids.count(self._sole_newline) == t.count("\n") for ids, t in zip(whole, texts)]
            return [
                self._after_newlines(ids, insert) if fit else self._by_line(text, insert, continued)
                for ids, text, fit in zip(whole, texts, fits)
            ]
        return [self._by_line(text, insert, continued) for text in texts]

    def _after_newlines(self, ids: list[int], insert: int) -> list[int]:
        array = np.array(ids, dtype=np.int64)
        places = np.flatnonzero(array == self._sole_newline) + 1
        return np.insert(array, places, insert).tolist()

    def _by_line(self, text: str, insert: int, continued: bool) -> list[int]:
        lines = [line + "\n" for line in text.split("\n")]
        lines[-1] = lines[-1][:-1]
        if not lines[-1]:
            lines.pop()
        first = self.encode(lines[:1], continued)
        encoded = first + self.encode(lines[1:], continued=True)
        out: list[int] = []
        for line, ids in zip(lines, encoded):
            out += ids
            if line.endswith("\n"):
                out.append(insert)
        return out

    @cached_property
    def hole_format(self) -> list[str]:
        """Marks and places of a text with a hole, suffix first. Raises ValueError without marks."""
        for pre, suf, mid in _MARK_SETS:
            if all(mark in self.added for mark in (pre, suf, mid)):
                return [pre, suf, SUFFIX, mid, PREFIX]
        if all(mark in self.added for mark in _MARK_SETS[0][:2]):
            return [_MARK_SETS[0][1], SUFFIX, _MARK_SETS[0][0], PREFIX]
        raise ValueError(f"the tokenizer in {self.folder} has no marks for a hole in a text")
