"""The refusal of what a function does not do."""

from __future__ import annotations

__all__ = ["Unsupported"]


class Unsupported(Exception):
    """A node asks for something that its function does not do; the message says what."""
