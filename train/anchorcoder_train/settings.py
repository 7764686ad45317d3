"""Anchor settings in the words of config.json, and the policy that attention runs.

The words and their meaning are those of the engine (`lib/anchors.ts`, `lib/policy.ts`); how both
read one folder is compared in `tests/test_engine.py`. Settings are plain dictionaries, because a
word that is missing means something else than one that is null.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

Words = dict[str, Any]

ANCHOR_TEXT = "<ANCHOR>"
# Of AnchorCoder's released models, where nothing else is said.
DEFAULT_PERIOD = 8
DEFAULT_WINDOW_SINKS = 4

_COUNT, _ID_OR_NULL = "an integer, 0 or more", "a layer or null"
_POLICY_WORDS = {
    "tokens": 'a list of ids or "newline"',
    "per": 'an integer, 1 or more, or "none"',
    "dense_layers": "a list of layers",
    "source_layer": _ID_OR_NULL,
    "consumers_above": _COUNT,
    "multi_head_positions": "true or false",
    "window": _COUNT,
    "sinks": "an integer, 1 or more",
}
_BLOCK_WORDS = {**_POLICY_WORDS, "insert": "an id, a token or null", "indent": '"none" or "tab4"'}


class Ids(Protocol):
    """What settings need to know of a vocabulary; `Vocabulary` has it."""

    anchor_id: int | None
    bos_id: int | None
    newline_ids: Sequence[int]
    control_ids: Sequence[int]


@dataclass(frozen=True)
class Policy:
    """Which rows a layer sees; the fields are those of the engine's policy.

    Rows of *kept* positions (anchors, and positions below `sinks`) are seen for good. Beside them
    a token sees everything from the start of its line on (`line`), or from `window` tokens back.
    Dense layers see all earlier rows.
    """

    dense: tuple[bool, ...]  # (layers)
    anchor_ids: tuple[int, ...] = ()
    first_is_anchor: bool = False
    anchor_sees_anchors: bool = True
    line: bool = False
    window: int = 0  # 0: none
    sinks: int = 0
    source_layer: int = -1  # -1: no layer-wise attention
    consumers_above: int = 0
    multi_head_positions: bool = False

    def is_consumer(self, layer: int) -> bool:
        return self.source_layer >= 0 and layer > self.consumers_above

    def with_window(self, window: int) -> "Policy":
        return replace(self, window=window)


def plain_policy(layers: int) -> Policy:
    """Ordinary causal attention, without anything of anchors."""
    return Policy(dense=(True,) * layers)


def _is_count(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_counts(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(map(_is_count, value))


_CHECKS = {
    "tokens": lambda v: v == "newline" or _is_counts(v),
    "per": lambda v: v == "none" or _is_count(v, 1),
    "dense_layers": _is_counts,
    "source_layer": lambda v: v is None or _is_count(v),
    "consumers_above": _is_count,
    "multi_head_positions": lambda v: isinstance(v, bool),
    "window": _is_count,
    "sinks": lambda v: _is_count(v, 1),
    "insert": lambda v: v is None or _is_count(v) or (isinstance(v, str) and v != ""),
    "indent": lambda v: v in ("none", "tab4"),
}


def check_words(words: Mapping[str, Any], where: str, known: Mapping[str, str]) -> Words:
    """A copy of `words` if every word is known and has a fitting value.

    Raises ValueError otherwise, which names the word and what was expected.
    """
    for word, value in words.items():
        if word not in known:
            raise ValueError(f'{where}: unknown word "{word}"; known: {", ".join(known)}')
        if not _CHECKS[word](value):
            raise ValueError(f'{where}: expected "{word}" to be {known[word]}, but got {value!r}')
    return dict(words)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Words:
    """`over` on `base`, word by word; the two ways to name dense layers replace each other."""
    result = dict(base)
    if "per" in over or "dense_layers" in over:
        result.pop("per", None)
        result.pop("dense_layers", None)
    return {**result, **over}


def check_block(block: Mapping[str, Any], where: str = "anchors") -> Words:
    """The words of an `anchors` block, checked. Raises ValueError."""
    return check_words(block, where, _BLOCK_WORDS)


# AnchorCoder's own keys of config.json, and the words for them.
SPELLINGS = {
    "per": "per",
    "anchor_layer": "source_layer",
    "multilayer": "consumers_above",
    "anchor_token_ids": "tokens",
}


def read_words(config: Mapping[str, Any]) -> Words | None:
    """Anchor settings of config.json in either spelling, None where it has none."""
    own = {word: config[key] for key, word in SPELLINGS.items() if config.get(key) is not None}
    block = config.get("anchors")
    if not own and block is None:
        return None
    if isinstance(own.get("tokens"), int):
        own["tokens"] = [own["tokens"]]
    words = check_block(own, "config.json")
    return merge(words, check_block(block or {}, 'config.json "anchors"'))


def read_folder(folder: str | Path) -> Words | None:
    """Anchor settings of a model folder, or of the block beside an adapter; None without any."""
    folder = Path(folder)
    beside = folder / "anchors.json"
    if beside.exists():
        return check_block(json.loads(beside.read_text()), str(beside))
    return read_words(json.loads((folder / "config.json").read_text()))


def anchor_ids(tokens: Sequence[int] | str | None, ids: Ids | None, trained: bool) -> list[int]:
    """The ids that `tokens` means, ascending. None means `<ANCHOR>` and BOS, or every newline for
    a model that has no `<ANCHOR>` and was not trained for anchors."""
    if tokens is not None and tokens != "newline":
        return sorted(set(tokens))
    if ids is None:
        raise ValueError('"tokens" names no ids, and there is no tokenizer to find them with')
    if tokens is None:
        if ids.anchor_id is not None:
            return sorted({ids.anchor_id} | ({ids.bos_id} if ids.bos_id is not None else set()))
        if trained:
            raise ValueError(f'expected "tokens": the tokenizer has no {ANCHOR_TEXT}')
    return sorted({*ids.newline_ids, *ids.control_ids})


def _layer_wise(words: Mapping[str, Any], layers: int) -> dict[str, int]:
    source = words.get("source_layer")
    above = words.get("consumers_above", source if source is not None else 0)
    # A bound above all layers is how configs switch the mechanism off.
    if source is None or above >= layers - 1:
        return {}
    if source >= layers:
        raise ValueError(f'expected "source_layer" to be 0 to {layers - 1}, but got {source}')
    if above < source:
        raise ValueError(f'expected "consumers_above" to be {source} or more, but got {above}')
    return {"source_layer": source, "consumers_above": above}


def _dense(words: Mapping[str, Any], layers: int) -> tuple[bool, ...]:
    chosen, per = words.get("dense_layers"), words.get("per")
    if chosen is not None and per is not None:
        raise ValueError('expected either "per" or "dense_layers", but got both')
    if chosen is not None:
        if len(set(chosen)) < len(chosen) or any(layer >= layers for layer in chosen):
            limits = f"different layers from 0 to {layers - 1}"
            raise ValueError(f'expected "dense_layers" to be {limits}, but got {chosen}')
        return tuple(layer in chosen for layer in range(layers))
    return tuple(isinstance(per, int) and layer % per == 0 for layer in range(layers))


def _checked(policy: Policy) -> Policy:
    source = policy.source_layer
    if source < 0 or policy.dense[source]:
        return policy
    for layer, dense in enumerate(policy.dense):
        if dense and policy.is_consumer(layer):
            raise ValueError(f"expected the source layer {source} to be dense: so is its {layer}")
    return policy


def resolve(
    policy: Mapping[str, Any], words: Mapping[str, Any] | None, layers: int, ids: Ids | None = None
) -> Policy:
    """What attention runs for `policy`, in the engine's words in snake case: `kind` is "full",
    "window" (`size`, `sinks`, `dense_layers`), "anchor" (`line` and the words of the block) or
    "ansan" (`tokens`). `words`: the model's own settings, None if it was not trained for anchors.

    Raises ValueError for settings that contradict each other or the number of layers.
    """
    own = {word: value for word, value in policy.items() if word != "kind"}
    trained = words is not None
    words = words or {}
    kept = _layer_wise(words, layers) if trained else {}
    match policy.get("kind"):
        case "full":
            if not trained:
                return plain_policy(layers)
            return Policy(
                dense=(True,) * layers,
                anchor_ids=tuple(anchor_ids(words.get("tokens"), ids, trained)),
                first_is_anchor=True,
                line=True,
                multi_head_positions=words.get("multi_head_positions", True),
                **kept,
            )
        case "window":
            size = own.pop("size", None)
            if not _is_count(size, 1):
                raise ValueError(f'expected "size" to be an integer, 1 or more, but got {size!r}')
            sinks = own.pop("sinks", DEFAULT_WINDOW_SINKS)
            if not _is_count(sinks):
                raise ValueError(f'expected "sinks" to be {_COUNT}, but got {sinks!r}')
            own = check_words(own, "policy", {"dense_layers": _POLICY_WORDS["dense_layers"]})
            dense = _dense({"dense_layers": own.get("dense_layers", [])}, layers)
            return _checked(Policy(dense=dense, window=size, sinks=sinks, **kept))
        case "anchor":
            line = own.pop("line", True)
            merged = merge(words, check_words(own, "policy", _POLICY_WORDS))
            if "per" not in merged and "dense_layers" not in merged:
                merged["per"] = DEFAULT_PERIOD
            window = merged.get("window", 0)
            if not line and window == 0:
                raise ValueError('expected "window" to be 1 or more where "line" is false')
            return _checked(
                Policy(
                    dense=_dense(merged, layers),
                    anchor_ids=tuple(anchor_ids(merged.get("tokens"), ids, trained)),
                    first_is_anchor=True,
                    line=line,
                    window=window,
                    sinks=merged.get("sinks", 1),
                    multi_head_positions=merged.get("multi_head_positions", trained),
                    **_layer_wise(merged, layers),
                )
            )
        case "ansan":
            own = check_words(own, "policy", {"tokens": _POLICY_WORDS["tokens"]})
            listed = own.get("tokens", words.get("tokens"))
            found = anchor_ids(listed, ids, trained)
            if not isinstance(own.get("tokens"), Sequence) or own["tokens"] == "newline":
                # AnLLM keeps no first token, unless the caller lists it.
                found = [id for id in found if ids is None or id != ids.bos_id]
            return Policy(
                dense=(False,) * layers,
                anchor_ids=tuple(found),
                anchor_sees_anchors=False,
                line=True,
            )
    kinds = '"full", "window", "anchor", "ansan"'
    raise ValueError(f'expected "kind" to be one of {kinds}, but got {policy.get("kind")!r}')
