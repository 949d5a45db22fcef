"""Axes: which dimensions of which tensors are the same channels, and what that allows."""
