"""Find the code blocks of pages."""

from __future__ import annotations

import re
from typing import Final

from support.common import ROOT

README: Final = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str, page: str = README) -> list[str]:
    """Return the code blocks of a language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
