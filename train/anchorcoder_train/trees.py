"""Packages in source trees: what they are called, their licence, their files of source code."""

import email.parser
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .licences import spdx_of, spdx_of_text
from .texts import Document

LANGUAGES = {
    ".py": "py",
    ".ts": "ts",
    ".tsx": "ts",
    ".mts": "ts",
    ".cts": "ts",
    ".js": "js",
    ".jsx": "js",
    ".mjs": "js",
    ".cjs": "js",
}
_SKIPPED = {"node_modules", "__pycache__", ".git"}


@dataclass(frozen=True)
class Package:
    """A package and where its files are."""

    name: str
    version: str
    licence: str  # SPDX expression, "" where none was found
    root: Path  # paths of documents are below it
    files: tuple[Path, ...]


def _licence_file(folder: Path) -> str:
    for path in sorted(folder.glob("*")):
        if path.is_file() and path.name.upper().startswith(("LICENSE", "LICENCE", "COPYING")):
            return spdx_of_text(path.read_text(encoding="utf-8", errors="replace"))
    return ""


def _sources(folder: Path) -> tuple[Path, ...]:
    """Files of source code below a folder, in order, without those of packages inside it."""
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            continue
        if path.is_dir():
            if path.name not in _SKIPPED and not path.name.endswith(".dist-info"):
                found += _sources(path)
        elif path.suffix in LANGUAGES and not path.name.endswith(".d.ts"):
            found.append(path)
    return tuple(found)


def _npm(folder: Path) -> Package:
    about = json.loads((folder / "package.json").read_text(encoding="utf-8"))
    licence = about.get("license", "")
    if isinstance(licence, dict):
        licence = licence.get("type", "")
    if not isinstance(licence, str) or not licence or licence.startswith("SEE "):
        licence = _licence_file(folder)
    name, version = about.get("name") or folder.name, str(about.get("version", ""))
    return Package(name, version, spdx_of(licence), folder, _sources(folder))


def _installed(info: Path) -> Package:
    """A Python package by its NAME.dist-info, which lists its files."""
    parser = email.parser.Parser()
    about = parser.parsestr((info / "METADATA").read_text(encoding="utf-8", errors="replace"))
    classifiers = about.get_all("Classifier") or []
    named = [
        *[about.get("License-Expression") or ""],
        *[one for one in classifiers if one.startswith("License :: OSI Approved ::")],
        *[about.get("License") or ""],
    ]
    # A field "License" may hold the whole text.
    short = [spdx_of(one) for one in named if one and "\n" not in one]
    licence = short[0] if short else _licence_file(info) or spdx_of_text(about.get("License") or "")
    listed = (info / "RECORD").read_text(encoding="utf-8") if (info / "RECORD").exists() else ""
    paths = (info.parent / line.split(",")[0] for line in listed.splitlines())
    files = sorted({path for path in paths if path.suffix in LANGUAGES and path.is_file()})
    return Package(about["Name"], about["Version"], licence, info.parent, tuple(files))


def packages_in(root: str | Path) -> Iterator[Package]:
    """Packages that lie side by side in `root`: npm packages (scopes included), installed Python
    packages, and any other folder, whose licence is that of its licence file."""
    root = Path(root)
    if (root / "package.json").exists():
        yield _npm(root)
        return
    children = sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink())
    infos = [path for path in children if path.name.endswith(".dist-info")]
    owned: set[Path] = set()
    for info in infos:
        package = _installed(info)
        owned |= {root / file.relative_to(root).parts[0] for file in package.files}
        yield package
    for folder in children:
        if folder in infos or folder in owned or folder.name in _SKIPPED:
            continue
        if folder.name.startswith("@"):
            yield from packages_in(folder)
        elif (folder / "package.json").exists():
            yield _npm(folder)
        else:
            yield Package(folder.name, "", _licence_file(folder), folder, _sources(folder))


def documents_of(package: Package, largest: int) -> Iterator[Document]:
    """The files of a package that are text of at most `largest` bytes, unchanged."""
    for path in package.files:
        data = path.read_bytes()
        if not data or len(data) > largest or b"\0" in data:
            continue
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            continue
        name = path.relative_to(package.root).as_posix()
        yield Document(LANGUAGES[path.suffix], package.name, name, text, package.licence)
