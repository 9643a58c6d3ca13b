"""``make help`` lists the targets and the variables of the Makefile."""

from __future__ import annotations

import re
import subprocess
import tomllib

from support.common import ROOT, require_tool
from support.server import WAIT_SECONDS

MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def listed() -> tuple[list[str], list[str]]:
    """Return the targets and the variables that ``make help`` prints."""
    done = subprocess.run(
        [require_tool("make"), "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=True,
    )
    targets, _, variables = done.stdout.partition("Variables")
    return re.findall(r"^  make (\S+) +\S", targets, re.M), re.findall(
        r"^  ([A-Z_]+) +\S", variables, re.M
    )


def test_help_lists_every_target_and_variable() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.M)
    settable = re.findall(r"^([A-Z_]+) \?=", MAKEFILE, re.M)
    targets, variables = listed()
    assert targets
    assert variables
    assert sorted(targets) == sorted(set(phony.split()) - {"$(CHECKS)"})
    assert sorted(variables) == sorted(settable)


def test_each_target_stands_below_its_line_of_help() -> None:
    """A line that names another target than the rule below it is out of date."""
    rules = re.findall(r"^## make (\S+).*\n([a-z-]+):", MAKEFILE, re.M)
    assert rules
    assert all(line == rule for line, rule in rules), rules
    assert len(rules) == len(re.findall(r"^## make ", MAKEFILE, re.M))


def test_each_tier_is_the_mark_expression_that_it_says() -> None:
    """``-m`` on the command line replaces the one of pyproject.toml, so it has to repeat it."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    pytest_options = options["tool"]["pytest"]["ini_options"]
    declared = {mark.partition(":")[0] for mark in pytest_options["markers"]}
    default = pytest_options["addopts"][pytest_options["addopts"].index("-m") + 1]
    long = re.findall(r"not (\w+)", default)
    assert default == " and ".join(f"not {mark}" for mark in long)
    fast, middle = (
        re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.M)[0]
        for target in ("test-fast", "test")
    )
    assert re.findall(r'-m "([^"]+)"', fast) == [f"not slow and {default}"]
    assert " -m " not in middle
    assert re.findall(r"^test-long: (.+)$", MAKEFILE, re.M) == [" ".join(long)]
    for mark in long:
        (recipe,) = re.findall(rf"^{mark}:.*\n((?:\t.*\n)+)", MAKEFILE, re.M)
        assert re.findall(r"-m (?!pytest)(\S+)", recipe) == [mark]
    assert {"slow", *long} <= declared


def test_coverage_runs_every_folder_that_it_names() -> None:
    """A bare ``--cov`` takes the argument behind it for what to measure, and no test of it runs."""
    (folders,) = re.findall(r"^coverage: TESTS = (.+)$", MAKEFILE, re.M)
    (recipe,) = re.findall(r"^coverage: \$.*\n\t(.*)\n", MAKEFILE, re.M)
    assert all((ROOT / folder).is_dir() for folder in folders.split())
    assert "--cov=" in recipe.split()
    assert recipe.endswith(" $(TESTS)")
