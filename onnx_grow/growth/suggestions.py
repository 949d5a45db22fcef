"""What somebody may have meant by a glob that matches nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

__all__ = ["suggestion"]


def suggestion(glob: str, names: Iterable[str], *, cutoff: float = 0.6) -> str:
    """A name like `glob`; of one with wildcards rather itself, words that are in no name replaced; empty if none is near."""
    names = list(dict.fromkeys(names))
    meant = _mended(glob, names, cutoff) if re.search(r"[*?\[]", glob) else ""
    return meant or next(iter(get_close_matches(glob, names, 1, cutoff)), "")


def _mended(glob: str, names: Sequence[str], cutoff: float) -> str:
    words = list(dict.fromkeys(word for name in names for word in _WORD.findall(name)))

    def nearest(found: re.Match[str]) -> str:
        known = any(found[0] in word for word in words)
        return found[0] if known else next(iter(get_close_matches(found[0], words, 1, cutoff)), found[0])

    meant = _WORD.sub(nearest, glob)
    return meant if any(fnmatchcase(name, meant) for name in names) else ""


_WORD = re.compile(r"[^\W_]+")
