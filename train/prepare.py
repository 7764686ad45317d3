"""Text for training: a corpus from source trees, a tokenizer, packed ids.

    python train/prepare.py corpus node_modules venv/lib/python3.11/site-packages --out corpus
    python train/prepare.py tokenizer corpus/train.jsonl.xz --size 8192 --out tokenizer
    python train/prepare.py add-anchor MODEL --out tokenizer
    python train/prepare.py shards corpus/train.jsonl.xz --tokenizer tokenizer --out shards/train \\
        --holes 0.5 --passes 2
"""

import argparse
import json
from pathlib import Path

from anchorcoder_train.bpe import add_anchor, train_tokenizer
from anchorcoder_train.corpus import build_corpus
from anchorcoder_train.shards import Writer, write_shards
from anchorcoder_train.texts import read_lines
from anchorcoder_train.vocabulary import Vocabulary


def corpus(options: argparse.Namespace) -> object:
    return build_corpus(
        options.roots,
        options.out,
        share=options.valid,
        seed=options.seed,
        largest=options.largest,
    )


def tokenizer(options: argparse.Namespace) -> object:
    texts = (one.text for path in options.texts for one in read_lines(path))
    train_tokenizer(texts, options.size, options.out, options.context)
    return {"size": options.size}


def anchor(options: argparse.Namespace) -> object:
    return {"<ANCHOR>": add_anchor(options.model, options.out)}


def shards(options: argparse.Namespace) -> object:
    vocabulary = Vocabulary(options.tokenizer)
    words = {"insert": options.insert} if options.insert else None
    insert = None if options.no_insert else vocabulary.inserted_id(words)
    writer = Writer(vocabulary, insert, options.indent, options.holes, options.seed)
    documents = [one for path in options.texts for one in read_lines(path, options.files)]
    return write_shards(documents, writer, options.out, options.passes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)

    one = commands.add_parser("corpus", help="source trees to JSON lines, split by package")
    one.add_argument("roots", type=Path, nargs="+", help="folders of packages")
    one.add_argument("--valid", type=float, default=0.05, help="share of packages for validation")
    one.add_argument("--largest", type=int, default=1 << 20, help="bytes of a file")
    one.set_defaults(run=corpus)

    one = commands.add_parser("tokenizer", help="trains a tokenizer with anchors")
    one.add_argument("texts", type=Path, nargs="+")
    one.add_argument("--size", type=int, default=8192)
    one.add_argument("--context", type=int, default=2048)
    one.set_defaults(run=tokenizer)

    one = commands.add_parser("add-anchor", help="copies a tokenizer with <ANCHOR> added")
    one.add_argument("model", type=Path)
    one.set_defaults(run=anchor)

    one = commands.add_parser("shards", help="JSON lines to packed ids")
    one.add_argument("texts", type=Path, nargs="+")
    one.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    one.add_argument("--holes", type=float, default=0.0, help="share of texts with a hole to fill")
    one.add_argument("--passes", type=int, default=1, help="times that all texts are written")
    one.add_argument("--files", type=int, help="documents of each file, all without it")
    one.add_argument("--insert", help="token behind every newline; <ANCHOR> where there is one")
    one.add_argument("--no-insert", action="store_true", help="existing ids are the anchors")
    one.add_argument("--indent", choices=["none", "tab4"], default="none")
    one.set_defaults(run=shards)

    for command in commands.choices.values():
        command.add_argument("--out", type=Path, required=True, help="folder to write")
        command.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(json.dumps(options.run(options), indent=1))


if __name__ == "__main__":
    main()
