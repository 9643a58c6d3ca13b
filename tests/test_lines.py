"""The count of code lines leaves out what is no code."""

from __future__ import annotations

from support.lines import code_lines

SOURCE = '''"""A module."""

# A comment.
NAME = 1  # beside code


def call(
    first: int,
) -> str:
    """Return text.

    In two paragraphs.
    """
    return """of
two lines"""


class Thing:
    """A docstring alone."""

    size: int
    """An attribute's docstring."""
'''


def test_only_code_counts() -> None:
    """NAME, def of three lines, return of two, class, size."""
    assert code_lines(SOURCE) == 8
