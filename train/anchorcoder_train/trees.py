"""Packages in source trees: what they are called, their licence, their files of source code."""

import email.parser
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .licences import has_copyleft_header, is_permissive, spdx_of, spdx_of_text
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
# Packages of others lie in some of them, under licences of their own.
_VENDORED = {"_vendor", "_vendored", "vendor", "vendored", "third_party", "thirdparty", "extern"}
_SKIPPED = {"node_modules", "__pycache__", ".git", *_VENDORED}
_LICENCE_NAMES = ("LICENSE", "LICENCE", "COPYING")


@dataclass(frozen=True)
class Package:
    """A package and where its files are."""

    name: str
    version: str
    licence: str  # SPDX expression, "" where none was found
    root: Path  # paths of documents are below it
    files: tuple[Path, ...]


def _licence_file(folder: Path) -> str | None:
    """What a folder's licence file says, "" where it is not recognised, None without one."""
    for path in sorted(folder.glob("*")):
        if path.is_file() and path.name.upper().startswith(_LICENCE_NAMES):
            return spdx_of_text(path.read_text(encoding="utf-8", errors="replace"))
    return None


@cache
def _is_apart(folder: Path) -> bool:
    """Whether a folder inside a package is another's, or under a licence that does not permit."""
    if folder.name in _SKIPPED or folder.name.endswith(".dist-info"):
        return True
    licence = _licence_file(folder)
    return licence is not None and not is_permissive(licence)


def _sources(folder: Path) -> tuple[Path, ...]:
    """Files of source code below a folder, in order, without those of packages inside it."""
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            continue
        if path.is_dir():
            if not _is_apart(path):
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
        licence = _licence_file(folder) or ""
    name, version = about.get("name") or folder.name, str(about.get("version", ""))
    return Package(name, version, spdx_of(licence), folder, _sources(folder))


def _installed(info: Path) -> Package:
    """A Python package by its NAME.dist-info, which lists its files."""
    parser = email.parser.Parser()
    about = parser.parsestr((info / "METADATA").read_text(encoding="utf-8", errors="replace"))
    classifiers = about.get_all("Classifier") or []
    approved = [one for one in classifiers if one.startswith("License :: OSI Approved ::")]
    named = [
        about.get("License-Expression") or "",
        # Which of several holds for what, nothing says; so all must be permissive.
        " AND ".join(spdx_of(one) for one in approved),
        about.get("License") or "",
    ]
    # A field "License" may hold the whole text.
    short = [spdx_of(one) for one in named if one and "\n" not in one]
    licence = short[0] if short else _licence_file(info) or spdx_of_text(about.get("License") or "")
    listed = (info / "RECORD").read_text(encoding="utf-8") if (info / "RECORD").exists() else ""
    paths = (info.parent / line.split(",")[0] for line in listed.splitlines())
    files = sorted(
        path
        for path in set(paths)
        if path.suffix in LANGUAGES and path.is_file() and _is_own(path, info.parent)
    )
    return Package(about["Name"], about["Version"], licence, info.parent, tuple(files))


def _is_own(file: Path, site: Path) -> bool:
    """Whether no folder between a package's own, at the top of `site`, and the file is apart."""
    folders = list(file.parents)
    if site in folders:
        # From the file upwards; the last one below `site` is the package's own.
        folders = folders[: folders.index(site)][:-1]
    return not any(_is_apart(folder) for folder in folders)


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
            licence = _licence_file(folder) or ""
            yield Package(folder.name, "", licence, folder, _sources(folder))


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
        if has_copyleft_header(text):
            continue
        name = path.relative_to(package.root).as_posix()
        yield Document(LANGUAGES[path.suffix], package.name, name, text, package.licence)
