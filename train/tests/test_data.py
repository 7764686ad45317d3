"""Source trees to packed ids: what is left out, what stays as it is, where anchors stand."""

import json
import shutil
from pathlib import Path

import engine
import numpy as np
import pytest

from anchorcoder_train.bpe import add_anchor, train_tokenizer
from anchorcoder_train.corpus import build_corpus, is_valid
from anchorcoder_train.duplicates import Duplicates
from anchorcoder_train.licences import is_permissive, spdx_of_text
from anchorcoder_train.shards import Shards, Windows, Writer, write_shards
from anchorcoder_train.texts import Document, read_lines, write_lines
from anchorcoder_train.trees import documents_of, packages_in
from anchorcoder_train.vocabulary import Vocabulary

ODD = 'x = 1\r\n\tif x:\r\n    y = "' + "very long " * 2000 + '"\n\n'


def code(seed: int) -> str:
    """A file unlike that of any other seed."""
    random = np.random.default_rng(seed)
    names = ["".join(chr(97 + c) for c in random.integers(0, 26, 8)) for _ in range(60)]
    return "".join(f"def {name}(x):\n    return x + {i}\n" for i, name in enumerate(names))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "packages"
    for number in range(30):
        folder = root / f"free-{number}"
        write(folder / "package.json", json.dumps({"name": f"free-{number}", "license": "MIT"}))
        write(folder / "src" / "index.js", code(number))
        write(folder / "node_modules" / "other" / "index.js", code(1000 + number))
    write(root / "@scope" / "one" / "package.json", '{"name": "@scope/one", "license": "ISC"}')
    write(root / "@scope" / "one" / "a.ts", ODD)
    write(root / "@scope" / "one" / "a.d.ts", code(2000))
    write(root / "closed" / "package.json", '{"name": "closed", "license": "UNLICENSED"}')
    write(root / "closed" / "a.js", code(2001))
    # Nearly the file of free-3, in another package.
    write(root / "twin" / "package.json", '{"name": "twin", "license": "MIT OR GPL-3.0"}')
    write(root / "twin" / "a.js", code(3).replace("return x + 7\n", "return x + 8\n"))
    write(root / "wheel-1.0.dist-info" / "METADATA", "Name: wheel\nVersion: 1.0\nLicense: BSD\n\nx")
    write(root / "wheel-1.0.dist-info" / "RECORD", "wheel/a.py,,\nwheel/b.txt,,\n../../bin/w,,\n")
    write(root / "wheel" / "a.py", code(2002))
    write(
        root / "plain" / "LICENSE", "Permission is hereby granted, free of charge,\nto any person"
    )
    write(root / "plain" / "a.py", code(2003))
    (root / "plain" / "latin.py").write_bytes(b"# caf\xe9\n")
    return root


def test_packages_of_a_tree(tree: Path):
    found = {package.name: package for package in packages_in(tree)}
    assert found["@scope/one"].licence == "ISC"
    assert [path.name for path in found["@scope/one"].files] == ["a.ts"]
    assert found["wheel"].licence == "BSD-3-Clause"
    assert [path.name for path in found["wheel"].files] == ["a.py"]
    # Half of a licence is none.
    assert found["plain"].licence == ""
    assert len(found["free-0"].files) == 1
    assert len(found) == 30 + 5


def test_what_is_inside_of_a_package_is_not_always_its_own(tmp_path: Path):
    site = tmp_path / "site-packages"
    info = site / "host-1.0.dist-info"
    write(info / "METADATA", "Name: host\nVersion: 1.0\nLicense-Expression: MIT\n\nx")
    paths = ["a.py", "_vendor/other/b.py", "inner/c.py", "free/d.py", "marked.py"]
    write(info / "RECORD", "".join(f"host/{path},,\n" for path in paths))
    for number, path in enumerate(paths):
        write(site / "host" / path, code(3000 + number))
    write(site / "host" / "inner" / "LICENSE", "GNU Lesser General Public License")
    write(site / "host" / "free" / "LICENSE", (engine.ROOT / "LICENSE").read_text())
    header = (
        "# This is free software under the terms of the GNU Lesser\n# General Public License.\n"
    )
    write(site / "host" / "marked.py", header + code(4000))
    (host,) = packages_in(site)
    assert [one.path for one in documents_of(host, 1 << 20)] == ["host/a.py", "host/free/d.py"]
    # The same files as a folder of sources.
    write(site / "host" / "LICENSE", (engine.ROOT / "LICENSE").read_text())
    shutil.rmtree(info)
    (host,) = packages_in(site)
    assert [one.path for one in documents_of(host, 1 << 20)] == ["a.py", "free/d.py"]


def test_several_classifiers_hold_together(tmp_path: Path):
    both = [f"Classifier: License :: OSI Approved :: {name}\n" for name in ("MIT License", "MPL")]
    info = tmp_path / "a-1.0.dist-info"
    write(info / "METADATA", "Name: a\nVersion: 1.0\n" + "".join(both) + "\nx")
    (package,) = packages_in(tmp_path)
    assert not is_permissive(package.licence)


def test_a_corpus(tree: Path, tmp_path: Path):
    out = tmp_path / "corpus"
    counts = build_corpus([tree], out, share=0.3, seed=1, largest=1 << 20)
    sides = {side: list(read_lines(out / f"{side}.jsonl.xz")) for side in ("train", "valid")}
    packages = {side: {one.package for one in documents} for side, documents in sides.items()}
    assert packages["train"] and packages["valid"]
    assert not packages["train"] & packages["valid"]
    everything = {one.package: one for documents in sides.values() for one in documents}
    assert "closed" not in everything and "twin" not in everything and "plain" not in everything
    assert everything["@scope/one"].text == ODD
    assert counts["packages without a permissive licence"] == 2 and counts["duplicates"] == 1
    listed = json.loads((out / "packages.json").read_text())
    assert {one["name"] for one in listed} == set(everything)


def test_a_package_stays_on_its_side():
    sides = [is_valid(f"p{number}", 0.1, 7) for number in range(2000)]
    assert 140 < sum(sides) < 260
    assert sides[:10] == [is_valid(f"p{number}", 0.1, 7) for number in range(10)]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT", True),
        ("(MIT OR GPL-3.0)", True),
        ("GPL-3.0 OR Apache-2.0", True),
        ("MIT AND GPL-3.0", False),
        ("GPL-3.0", False),
        ("", False),
        ("UNLICENSED", False),
        ("(MIT OR X) AND (Y)", False),
        ("License :: OSI Approved :: MIT License", True),
    ],
)
def test_licences(expression: str, expected: bool):
    assert is_permissive(expression) is expected


def test_licence_texts():
    apache = (engine.ROOT / "LICENSE").read_text()
    assert spdx_of_text(apache) == "Apache-2.0"
    assert spdx_of_text("GNU General Public License, and Apache License Version 2.0") == ""
    assert spdx_of_text("All rights reserved.") == ""
    assert spdx_of_text(f"Commons Clause License Condition\n\n{apache}") == ""
    mit = "Permission is hereby granted, free of charge, to any person obtaining a copy"
    assert spdx_of_text(mit) == "MIT"
    assert spdx_of_text(f"{mit} ... shall be used for Good, not Evil.") == ""


def test_duplicates():
    seen = Duplicates()
    assert seen.is_new(code(1))
    assert not seen.is_new(code(1))
    assert not seen.is_new(code(1).replace("\n", "\r\n"))
    assert not seen.is_new(code(1) + "def more():\n    pass\n")
    assert seen.is_new(code(2))
    assert not seen.is_new(" \n\n")


def test_lines_keep_texts(tmp_path: Path):
    documents = [
        Document("py", "p", "a.py", ODD + "\u2028\x85", "MIT"),
        Document("ts", "q", "b", ""),
    ]
    for name in ("a.jsonl", "a.jsonl.xz"):
        assert write_lines(tmp_path / name, documents) == 2
        assert list(read_lines(tmp_path / name)) == documents
        assert list(read_lines(tmp_path / name, 1)) == documents[:1]


def test_a_trained_tokenizer(tmp_path: Path):
    train_tokenizer([code(number) for number in range(20)] + [ODD], 400, tmp_path, 256)
    vocabulary = Vocabulary(tmp_path)
    assert vocabulary.size == 400 and vocabulary.first_ids == [0] and vocabulary.anchor_id == 1
    assert len(vocabulary.newline_ids) == 1
    ids = vocabulary.encode_anchored([ODD], 1)[0]
    assert b"".join(vocabulary.bytes_of[id] for id in ids) == ODD.encode()
    assert ids.count(1) == ODD.count("\n")
    with pytest.raises(ValueError, match="take more text"):
        train_tokenizer(["a"], 4000, tmp_path, 256)


def test_an_anchor_is_added(tmp_path: Path):
    base = tmp_path / "base"
    train_tokenizer([code(number) for number in range(20)], 400, base, 256)
    for path in base.iterdir():
        path.write_text(path.read_text().replace("<ANCHOR>", "<|other|>"))
    id = add_anchor(base, tmp_path)
    before, behind = Vocabulary(base), Vocabulary(tmp_path)
    assert id == before.size == behind.anchor_id and id in behind.control_ids
    text = "a\n\n  b\r\n"
    ids = behind.encode_anchored([text], id)[0]
    assert [one for one in ids if one == id] == [id] * 3
    assert b"".join(behind.bytes_of[one] for one in ids) == text.encode()
    with pytest.raises(ValueError, match="already"):
        add_anchor(tmp_path, tmp_path / "again")


@pytest.fixture
def documents() -> list[Document]:
    return [Document("py", "p", f"{n}.py", code(n)) for n in range(8)] + [
        Document("py", "p", "odd.py", ODD)
    ]


def test_packed_ids(documents: list[Document], tmp_path: Path):
    vocabulary = Vocabulary(engine.SHIPPED)
    writer = Writer(vocabulary, 1, "none", 0.0, 5)
    write_shards(documents, writer, tmp_path, passes=2, per_file=3000)
    shards = Shards(tmp_path)
    assert len(shards.about["files"]) > 2 and shards.about["dtype"] == "<u2"
    stream = shards.slice(0, len(shards))
    # One document after another: all of them twice.
    starts = np.flatnonzero(stream == 0)
    assert len(starts) == 2 * len(documents)
    texts = sorted(
        b"".join(vocabulary.bytes_of[id] for id in part).decode()
        for part in np.split(stream, starts)[1:]
    )
    assert texts == sorted([one.text for one in documents] * 2)
    assert np.array_equal(shards.slice(2990, 20), stream[2990:3010])
    with pytest.raises(IndexError):
        shards.slice(len(shards) - 1, 2)


def test_holes_are_written_suffix_first(documents: list[Document], tmp_path: Path):
    vocabulary = Vocabulary(engine.SHIPPED)
    write_shards(documents, Writer(vocabulary, 1, "none", 1.0, 5), tmp_path)
    shards = Shards(tmp_path)
    stream = shards.slice(0, len(shards))
    originals = {one.text for one in documents}
    for part in np.split(stream, np.flatnonzero(stream == 0))[1:]:
        assert part[1] == vocabulary.id_of("<|fim_suffix|>")
        (mark,) = np.flatnonzero(part == vocabulary.id_of("<|fim_prefix|>"))
        suffix, rest = (
            b"".join(vocabulary.bytes_of[id] for id in ids).decode()
            for ids in (part[2:mark], part[mark + 1 :])
        )
        assert rest + suffix in originals
        # An anchor behind every newline and nowhere else.
        (newline,) = vocabulary.newline_ids
        assert np.array_equal(np.flatnonzero(part == newline) + 1, np.flatnonzero(part == 1))


def test_the_same_seed_gives_the_same_ids(documents: list[Document], tmp_path: Path):
    vocabulary = Vocabulary(engine.SHIPPED)
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_shards(documents, Writer(vocabulary, 1, "none", 0.5, seed), tmp_path / name)
    a, b, c = ((tmp_path / name / "ids-00000.bin").read_bytes() for name in "abc")
    assert a == b and a != c


def test_windows(documents: list[Document], tmp_path: Path):
    writer = Writer(Vocabulary(engine.SHIPPED), 1, "none", 0.0, 5)
    write_shards(documents[:8], writer, tmp_path)
    shards = Shards(tmp_path)
    windows, again = (Windows(shards, 64, seed=3) for _ in range(2))
    first = [tuple(windows.window(n)) for n in range(windows.count)]
    assert len(set(first)) == windows.count
    assert sorted(sum((one[:-1] for one in first), ())) == sorted(
        shards.slice(0, 64 * windows.count).tolist()
    )
    # Any batch can be asked for at once.
    assert np.array_equal(again.batch(windows.count + 3, 2)[1], windows.window(windows.count + 4))
    assert tuple(windows.window(windows.count)) != first[0]
