"""Trains a byte-level tokenizer in which a newline is always an id of its own."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from .settings import ANCHOR_TEXT
from .vocabulary import Vocabulary, copy_tokenizer

END, SUFFIX_MARK, PREFIX_MARK = "<|endoftext|>", "<|fim_suffix|>", "<|fim_prefix|>"
CONTROL = [END, ANCHOR_TEXT, SUFFIX_MARK, PREFIX_MARK]


def train_tokenizer(texts: Iterable[str], size: int, out: Path, context: int) -> None:
    """Writes tokenizer.json and tokenizer_config.json with `size` ids, the first four of which are
    the end of text (also the first id of every text), the anchor and the marks of a hole."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("\\n"), behavior="isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=True,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != size:
        found = tokenizer.get_vocab_size()
        raise ValueError(f"the texts give {found} ids, not {size}: take more text or fewer ids")
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END,
        "eos_token": END,
        "additional_special_tokens": CONTROL[1:],
        "add_bos_token": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def add_anchor(base: Path, out: Path) -> int:
    """Copies a tokenizer with `<ANCHOR>` added as a control token; returns its id, the first one
    that the tokenizer does not use. Raises ValueError where it is there already."""
    vocabulary = Vocabulary(base)
    if vocabulary.anchor_id is not None:
        raise ValueError(f"the tokenizer in {base} has {ANCHOR_TEXT} already")
    tokenizer = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    id = vocabulary.size
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    token = {"id": id, "content": ANCHOR_TEXT, **flags, "special": True}
    tokenizer.setdefault("added_tokens", []).append(token)
    copy_tokenizer(base, out)
    # Which ids begin and end texts is said here, too.
    if (base / "generation_config.json").exists():
        shutil.copyfile(base / "generation_config.json", out / "generation_config.json")
    text = json.dumps(tokenizer, ensure_ascii=False, indent=2)
    (out / "tokenizer.json").write_text(text, encoding="utf-8")
    return id
