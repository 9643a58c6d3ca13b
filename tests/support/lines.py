"""Counts lines of code by folder: without comments, docstrings and blank lines.

``python tests/support/lines.py [REVISION]`` counts the working tree, or a commit of it. A line
counts where a token of a statement stands on it, so joining lines makes the number smaller and
the code worse: read the difference before you believe the figure.
"""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path

ROOTS = ("engine", "api", "bench", "tests")
_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> int:
    """Return the number of lines of a module that hold code."""
    texts = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - texts)


def sources(revision: str | None) -> dict[str, str]:
    """Return the modules of ROOTS by path, of the working tree or of a commit."""
    listing = ["ls-files"] if revision is None else ["ls-tree", "-r", "--name-only", revision]
    names = [
        name
        for name in _git(*listing).splitlines()
        if name.endswith(".py") and name.split("/", 1)[0] in ROOTS
    ]
    if revision is None:
        return {name: Path(name).read_text("utf-8") for name in names if Path(name).exists()}
    return {name: _git("show", f"{revision}:{name}") for name in names}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def main() -> None:
    """Print one line for each folder, and one for each root."""
    counts: Counter[str] = Counter()
    for name, source in sources(sys.argv[1] if len(sys.argv) > 1 else None).items():
        count = code_lines(source)
        root, *rest = name.split("/")
        counts[root] += count
        if len(rest) > 1:
            counts[f"{root}/{rest[0]}"] += count
    for folder, count in sorted(counts.items()):
        sys.stdout.write(f"{count:7,}  {folder}\n")
    sys.stdout.write(f"{counts['engine'] + counts['api']:7,}  engine + api\n")


if __name__ == "__main__":
    main()
