"""Which licence a package has, and whether it permits training on its text."""

import re

PERMISSIVE = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "BlueOak-1.0.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC0-1.0",
        "HPND",
        "ISC",
        "MIT",
        "MIT-0",
        "MIT-CMU",
        "PSF-2.0",
        "Python-2.0",
        "Unlicense",
        "Zlib",
    }
)

# What people write where an SPDX name belongs, and classifiers of Python packages.
_SPELLINGS = {
    "apache": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "the mit license": "MIT",
    "psf": "PSF-2.0",
    "python software foundation license": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
}

# Sentences that only one licence's text has, tried in this order.
_SENTENCES = (
    ("Apache-2.0", r"apache license\s+version 2\.0"),
    ("MIT", r"permission is hereby granted, free of charge, to any person obtaining a copy"),
    ("ISC", r"permission to use, copy, modify, and(/or| )?distribute this software for any"),
    ("BSD-3-Clause", r"redistribution and use in source and binary forms.*neither the name"),
    ("BSD-2-Clause", r"redistribution and use in source and binary forms"),
    ("Unlicense", r"this is free and unencumbered software released into the public domain"),
)
_COPYLEFT = re.compile(
    r"gnu (lesser |library |affero )?(general )?public license|mozilla public license"
)
# What makes another licence of a text that reads like one of those above.
_FURTHER = re.compile(
    r"commons clause|for good, not evil|all advertising materials mentioning features"
)
_HEADER = 3000  # characters of a file in which its own licence would stand


def spdx_of(name: str) -> str:
    """The SPDX name of what a package calls its licence, as it stands where that is unknown."""
    last = name.split("::")[-1].strip()
    return _SPELLINGS.get(last.lower(), last)


def spdx_of_text(text: str) -> str:
    """The SPDX name of a licence's text, "" where it is not recognised for certain."""
    flat = re.sub(r"\s+", " ", text.lower())
    if _COPYLEFT.search(flat) or _FURTHER.search(flat):
        return ""
    found = (name for name, sentence in _SENTENCES if re.search(sentence, flat))
    return next(found, "")


def has_copyleft_header(text: str) -> bool:
    """Whether a file names a copyleft licence at its beginning, whatever its package says."""
    # Comment signs may stand between the words.
    return bool(_COPYLEFT.search(re.sub(r"[\s#*/;]+", " ", text[:_HEADER].lower())))


def is_permissive(expression: str) -> bool:
    """Whether an SPDX expression leaves a choice of permissive licences alone."""
    bare = expression.strip()
    if bare.startswith("(") and bare.endswith(")"):
        bare = bare[1:-1]
    if not bare or "(" in bare:
        # Nested choices are rare enough to be left out.
        return spdx_of(bare) in PERMISSIVE
    choices = re.split(r"\s+OR\s+", bare)
    return any(
        all(spdx_of(part) in PERMISSIVE for part in re.split(r"\s+AND\s+", choice))
        for choice in choices
    )
