"""bearward: Bearer keys, permissions and rate limits before a model server. The program is beside this package."""

from ._find_bin import find_bin

__all__ = ["find_bin"]
