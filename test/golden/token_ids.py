"""Two small tokenizers with the traps of real ones, and golden ids by Python's `tokenizers`."""

import hashlib
import json
import re
import shutil
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

ANCHOR = "<ANCHOR>"

# What both small tokenizers are trained on.
CORPUS = '''\
def area(width, height):
    """The area of a rectangle."""
    if width < 0 or height < 0:
        raise ValueError("a side must not be negative")
    return width * height


class Counter:
    def __init__(self, start=0):
        self.value = start
        self.history = []

    def add(self, amount=1):
        self.history.append(self.value)
        self.value += amount
        return self.value

    def undo(self):
        if not self.history:
            return None
        self.value = self.history.pop()
        return self.value


def describe(name, value):
    label = name
    number = value
    result = label, number
    return result


for index in range(10):
    for other in range(index, 10):
        if index != other:
            print(index, other, index * other)

export function average(values) {
  let total = 0;
  for (const value of values) {
    total += value;
  }
  return values.length === 0 ? 0 : total / values.length;
}

const names = ["apple", "bread", "cheese"];
for (const name of names) {
  if (name.length > 5) {
    console.log(name, name.length);
  } else {
    console.log(name);
  }
}
'''

STRINGS = [
    "",
    " ",
    "  ",
    "a",
    " a",
    "a ",
    "\n",
    "\n\n",
    "\n\n\n\n\n",
    " \n",
    "\n ",
    "\n    ",
    "\n    \n",
    "  \n  \n  ",
    ":\n",
    ":\n    ",
    "{\n\n}\n",
    "def area(width, height):\n    return width * height\n",
    "def area(width, height):\n\treturn width * height\n",
    "\tif x:\n\t\ty = 1\n\t\t\tz = 2",
    "\t",
    "\t\t\t\t",
    " \t \t ",
    "\n\t",
    "x\ty\n",
    "line one\r\nline two\r\n",
    "\r\n",
    "\r\n\r\n",
    "lone\rcarriage\rreturn",
    "\r",
    "\n\r",
    "mixed\r\n\n\r\r\nend",
    "no newline at the end",
    "newline at the end\n",
    "two newlines at the end\n\n",
    "blank line\n\nbetween",
    "blank line with blanks\n    \n    x = 1\n",
    "        " * 8 + "x",
    " " * 100,
    " " * 33 + "\n" + " " * 17,
    "a" + " " * 31 + "b",
    "=" * 80,
    "-" * 37 + "\n",
    "a" * 50,
    "1234567890",
    "x = 0x1F + 1e-9 + 3.14159 + 1_000_000",
    "'single' \"double\" `tick` '''triple'''",
    "it's don't we'll I'm THEY'RE",
    "camelCase snake_case SCREAMING_CASE kebab-case",
    "a+=b**c//d&&e||f!=g<=h=>i->j::k...l?.m??n",
    "# naïve café déjà vu Ünïcödé",
    "e\u0301 against \u00e9",
    "\ufb01ne \u2460 \u00bd \u2122",
    "漢字とかな交じり文",
    "한국어 텍스트\n",
    "Привет, мир\n",
    "مرحبا بالعالم",
    "🎉",
    "🎉🎉\n🎉",
    "👩‍👩‍👧‍👦 🇪🇺 👍🏽",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0010ffff",
    "\u0000",
    "nul\u0000in\u0000the middle\n",
    "\u0001\u0002\u007f\u0080\u009f",
    "\u00a0\u2003\u3000no-break and wide blanks\u200b",
    "\u2028line\u2029separators\u0085\u000b\u000c",
    "\ufeffbyte order mark",
    "\u2581the blank mark itself\u2581",
    "\ufffd replacement",
    "Ġ Ċ ĉ are letters too",
    "<0x0A> <0x41> as text",
    ANCHOR,
    ANCHOR + ANCHOR,
    "x\n" + ANCHOR + "y\n" + ANCHOR,
    "x " + ANCHOR + " y",
    "x" + ANCHOR + "y",
    "\n" + ANCHOR + "\n" + ANCHOR + "\n",
    "<ANCHOR",
    "<anchor>",
    "<|endoftext|>",
    "<|endoftext|>import os\n",
    "end<|endoftext|>",
    "<|fim_suffix|>\n}\n<|fim_prefix|>f() {\n",
    "<s>",
    "</s>",
    "<unk>",
    "<s>[INST] user text that plays with control tokens [/INST]</s>",
    "print('<s>')\n",
    "const html = `<div>\n  <p>${name}</p>\n</div>`;\n",
    CORPUS[: CORPUS.index("for index")],
]


def write(path, value, **layout):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(value, ensure_ascii=False, **(layout or {"indent": 1})) + "\n", encoding="utf-8"
    )


def added(id, content):
    return {
        "id": id,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def tokenizer_json(**parts):
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        **parts,
    }


def bpe(vocab, merges, **parts):
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": merges,
        **parts,
    }


def trained_merges(pre_tokenizer, texts, count, alphabet):
    """Merges in the order found, and the single characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + count,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def config_tokens(special):
    """added_tokens_decoder of tokenizer_config.json."""
    fields = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {
        str(id): {field: added(id, content)[field] for field in fields} for id, content in special
    }


def make_sentencepiece(folder):
    """Like CodeLlama's with AnchorCoder's anchor: the anchor is missing from tokenizer.json."""
    mark = "\u2581"
    alphabet = [mark, *(chr(c) for c in range(33, 127))]
    pre_tokenizer = pre_tokenizers.Metaspace(replacement=mark, prepend_scheme="always")
    pairs = trained_merges(pre_tokenizer, CORPUS.splitlines(), 60, alphabet)
    # Runs of blanks come last, as in the Llama vocabulary: a word's own blank goes to the word.
    runs = [(1, 1), (2, 2), (2, 1), (4, 4), (8, 8), (4, 3), (8, 7)]
    pairs += [(mark * a, mark * b) for a, b in runs]
    special = ["<unk>", "<s>", "</s>"]
    pieces = [
        *special,
        *(f"<0x{b:02X}>" for b in range(256)),
        *(a + b for a, b in pairs),
        *alphabet,
    ]
    vocab = {piece: id for id, piece in enumerate(dict.fromkeys(pieces))}
    anchor = len(vocab)
    data = tokenizer_json(
        added_tokens=[added(id, content) for id, content in enumerate(special)],
        normalizer={
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": mark},
                {"type": "Replace", "pattern": {"String": " "}, "content": mark},
            ],
        },
        post_processor={
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<s>", "type_id": 1}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        decoder={
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": mark}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        # the older spelling of merges
        model=bpe(
            vocab,
            [f"{a} {b}" for a, b in pairs],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        ),
    )
    tokens = [*enumerate(special), (anchor, ANCHOR)]
    object_token = {"__type": "AddedToken", **config_tokens(tokens)["0"]}
    write(folder / "tokenizer.json", data)
    write(folder / "added_tokens.json", {ANCHOR: anchor})
    write(
        folder / "special_tokens_map.json",
        {
            "additional_special_tokens": [ANCHOR],
            "bos_token": {**config_tokens(tokens)["1"]},
            "eos_token": "</s>",
            "unk_token": "<unk>",
        },
    )
    write(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "added_tokens_decoder": config_tokens(tokens),
            "additional_special_tokens": [ANCHOR],
            "bos_token": {**object_token, "content": "<s>"},
            "clean_up_tokenization_spaces": False,
            "eos_token": {**object_token, "content": "</s>"},
            "legacy": True,
            "model_max_length": 1000000000000000019884624838656,
            "pad_token": None,
            "sp_model_kwargs": {},
            "tokenizer_class": "CodeLlamaTokenizer",
            "unk_token": {**object_token, "content": "<unk>"},
        },
    )


def make_newlines(folder):
    """Byte level, and its pre-tokenizer lets newlines merge with what stands before and behind."""
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = trained_merges(split, [CORPUS], 140, alphabet)
    pieces = [*alphabet, *(a + b for a, b in pairs)]
    # Special tokens behind the vocabulary, as in most byte-level models
    vocab = {piece: id for id, piece in enumerate(dict.fromkeys(pieces))}
    special = [(len(vocab) + n, content) for n, content in enumerate(["<|endoftext|>", ANCHOR])]
    data = tokenizer_json(
        added_tokens=[added(*token) for token in special],
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": pattern},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": False,
                },
            ],
        },
        decoder={
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        model=bpe(vocab, [list(pair) for pair in pairs]),
    )
    write(folder / "tokenizer.json", data)
    write(
        folder / "tokenizer_config.json",
        {
            "added_tokens_decoder": config_tokens(special),
            "additional_special_tokens": [ANCHOR],
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|endoftext|>",
            "model_max_length": 2048,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )


def byte_of_letter():
    """GPT-2's letters for bytes: printable Latin-1 is itself, the rest U+0100 and up in order."""
    themselves = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [b for b in range(256) if b not in themselves]
    return {chr(b): b for b in themselves} | {chr(256 + n): b for n, b in enumerate(others)}


def bytes_of_ids(tokenizer, data, special):
    """What each id adds to the text, as bytes; special tokens as their own text."""
    letters = byte_of_letter()
    fallback = data["model"]["byte_fallback"]
    table = []
    for id in range(tokenizer.get_vocab_size(with_added_tokens=True)):
        piece = tokenizer.id_to_token(id)
        if id in special:
            table.append(special[id].encode())
        elif not fallback:
            table.append(bytes(letters[letter] for letter in piece))
        elif len(piece) == 6 and piece.startswith("<0x"):
            table.append(bytes([int(piece[3:5], 16)]))
        else:
            table.append(piece.replace("\u2581", " ").encode())
    return table


def lines_of(text):
    """Cut behind every newline; a lone carriage return ends no line."""
    return [line for line in re.split(r"(?<=\n)", text) if line]


def encodings(folder, about):
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    text = json.dumps(data)
    whole = Tokenizer.from_str(text)
    extra = folder / "added_tokens.json"
    for content, id in json.loads(extra.read_text()).items() if extra.exists() else ():
        whole.add_special_tokens([AddedToken(content, special=True, normalized=False)])
        assert whole.token_to_id(content) == id
    special = {id: token.content for id, token in whole.get_added_tokens_decoder().items()}
    anchor = whole.token_to_id(ANCHOR)
    plain = Tokenizer.from_str(json.dumps({**data, "added_tokens": [], "post_processor": None}))
    prepends = data["normalizer"] is not None
    continued = plain
    if prepends:
        steps = [step for step in data["normalizer"]["normalizers"] if step["type"] != "Prepend"]
        rest = {**data["normalizer"], "normalizers": steps}
        continued = Tokenizer.from_str(
            json.dumps({**data, "added_tokens": [], "post_processor": None, "normalizer": rest})
        )
    hub = PreTrainedTokenizerFast.from_pretrained(folder)
    table = bytes_of_ids(whole, data, special)
    newline = [id for id, content in enumerate(table) if b"\n" in content and id not in special]
    newline_is_its_own_id = [table[id] for id in newline] == [b"\n"]

    def ids_of(tokenizer, string):
        return tokenizer.encode(string, add_special_tokens=False).ids

    cases = []
    for string in STRINGS:
        parsed, user = ids_of(whole, string), ids_of(plain, string)
        anchored = []
        for number, piece in enumerate(lines_of(string)):
            anchored += ids_of(continued if number else plain, piece)
            anchored += [anchor] if piece.endswith("\n") else []
        decoded = plain.decode(user, skip_special_tokens=False)
        case = {"text": string, "plain": user}
        if parsed != user:
            case["parsed"] = parsed
        if prepends and string:
            case["continued"] = ids_of(continued, string)
        if anchored != user:
            case["anchored"] = anchored
        if decoded != string:
            case["decoded"] = decoded
        cases.append(case)

        assert decoded == string or "\u2581" in string, string
        assert not set(user) & set(special), string
        assert hub.encode(string, add_special_tokens=False) == parsed, string
        blank = " " if prepends and string else ""
        assert b"".join(table[id] for id in user) == (blank + decoded).encode(), string
        if newline_is_its_own_id:
            assert [id for id in anchored if id != anchor] == user, string
    out = {
        "about": about,
        "size": len(table),
        "special": {content: id for id, content in sorted(special.items())},
        "first": whole.encode("", add_special_tokens=True).ids,
        "newlineIds": newline,
        "innerNewlineIds": [id for id in newline if b"\n" in table[id][:-1]],
        "bytesSha256": hashlib.sha256(
            b"".join(len(b).to_bytes(4, "little") + b for b in table)
        ).hexdigest(),
    }
    if len(table) < 1000:
        out["bytes"] = [content.hex() for content in table]
    return out, cases


def write_encodings(path, out, cases):
    """One case a line."""
    head = json.dumps(out, ensure_ascii=False)[:-1]
    lines = ",\n".join(" " + json.dumps(case) for case in cases)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{head}, "cases": [\n{lines}\n]}}\n', encoding="utf-8")


def make(out, shipped):
    shutil.rmtree(out, ignore_errors=True)
    make_sentencepiece(out / "sentencepiece")
    make_newlines(out / "newlines")
    abouts = {
        "sentencepiece": "blanks as marks, byte fallback; the anchor only in added_tokens.json",
        "newlines": "byte level; newlines merge with their neighbours",
    }
    for name, about in abouts.items():
        write_encodings(out / name / "encodings.json", *encodings(out / name, about))
    if (Path(shipped) / "tokenizer.json").exists():
        about = "the tokenizer of the model that the repository carries"
        write_encodings(out / "shipped" / "encodings.json", *encodings(Path(shipped), about))
