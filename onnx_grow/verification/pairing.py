"""Are two files the two that were meant? A file equals itself, and an original equals what grew from it, in either order."""

from __future__ import annotations

from onnx_grow.model import HISTORY, Model

__all__ = ["doubts"]


def doubts(original: Model, grown: Model) -> list[str]:
    """Warnings where both models are one file, or the first grew from the second."""
    if _is_one_file(original, grown):
        return ["both are the same file: equality says nothing"]
    if HISTORY in original.metadata:
        # It comes with all that grows, for which other pairs do not wait.
        from onnx_grow.verification.replay import grew_from

        if grew_from(original, grown):
            return ["the first grew from the second: swapped?"]
    return []


def _is_one_file(original: Model, grown: Model) -> bool:
    """Whether both came from one path, or from files of the same bytes that need no others."""
    paths = [model.path for model in (original, grown) if model.path and model.path.exists()]
    if len(paths) < 2:
        return False
    if paths[0].samefile(paths[1]):
        return True
    sizes = {path.stat().st_size for path in paths}
    whole = not original.data_files and not grown.data_files
    return whole and len(sizes) == 1 and original.sha256 == grown.sha256
