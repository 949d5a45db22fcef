"""Numbers and names as people read them."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def count(n: int) -> str:
    """A count in three digits: 950, 25.6 k, 1.34 M, 7 G."""
    return _scaled(n, ("", " k", " M", " G", " T"))


def size(n: int) -> str:
    """A size in bytes, decimal units as disks and file managers use them: 4.1 kB, 97.8 MB."""
    return _scaled(n, (" B", " kB", " MB", " GB", " TB"))


def share(part: int, whole: int) -> str:
    """`part` of `whole` as a percentage; 0 % of nothing."""
    return f"{100 * part / whole if whole else 0:.3g} %"


def counted(n: int, one: str, many: str = "") -> str:
    """The number with its noun: 1 axis, 2 axes."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def printable(text: str) -> str:
    """`text` on one line, control characters escaped: names come from files that nobody has vetted."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def some(names: tuple[str, ...], limit: int = 3) -> str:
    """The first `limit` names, and how many more there are."""
    more = len(names) - limit
    return printable(", ".join(names[:limit])) + (f" and {more:,} more" if more > 0 else "")


def _scaled(n: int, units: tuple[str, ...]) -> str:
    value, unit = float(n), units[0]
    for larger in units[1:]:
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g}{unit}" if value < 999.5 else f"{value:,.0f}{unit}"
