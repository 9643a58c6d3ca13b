"""The workflow, the commit hook and the release recipe run what the Makefile and .ci/run define."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from typing import Any

import yaml
from support.common import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
HOOKS = ROOT / ".pre-commit-config.yaml"
TARGETS = set(re.findall(r"^## make (\S+)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def jobs() -> dict[str, Any]:
    """Return the jobs of the workflow by name."""
    found: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text("utf-8"))["jobs"]
    return found


def steps() -> Iterator[dict[str, Any]]:
    """Yield the steps of all jobs."""
    for job in jobs().values():
        yield from job["steps"]


def is_ours(command: str) -> bool:
    """Return True for ``.ci/run`` and for ``make`` with targets that exist."""
    program, *arguments = shlex.split(command)
    if program == ".ci/run":
        return not arguments and os.access(ROOT / program, os.X_OK)
    targets = {word for word in arguments if "=" not in word}
    return program == "make" and bool(targets) and targets <= TARGETS


def test_workflow_runs_make_targets_that_exist() -> None:
    commands = [line for step in steps() for line in step.get("run", "").splitlines()]
    assert ".ci/run" in commands
    assert [command for command in commands if not is_ours(command)] == []


def test_workflow_pins_its_actions_and_has_no_secrets() -> None:
    used = [step["uses"] for step in steps() if "uses" in step]
    assert used
    assert [one for one in used if not re.fullmatch(r"actions/[a-z-]+@v\d+\.\d+\.\d+", one)] == []
    assert "secrets" not in WORKFLOW.read_text("utf-8")
    assert yaml.safe_load(WORKFLOW.read_text("utf-8"))["permissions"] == {"contents": "read"}


def test_workflow_tests_each_supported_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    supported = re.findall(r"Python :: (3\.\d+)$", "\n".join(project["classifiers"]), re.MULTILINE)
    assert jobs()["test"]["strategy"]["matrix"]["python"] == supported


def test_hooks_are_local_and_run_make() -> None:
    (local,) = yaml.safe_load(HOOKS.read_text("utf-8"))["repos"]
    assert local["repo"] == "local"
    assert all(is_ours(hook["entry"]) for hook in local["hooks"])
    assert local["hooks"]


def test_release_recipe_uses_targets_that_exist() -> None:
    text = (ROOT / "RELEASE.md").read_text("utf-8")
    blocks = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    commands = re.findall(r"^(?:make |\.ci/).*$", blocks, re.MULTILINE)
    assert {"make check", ".ci/run"} <= set(commands)
    assert [command for command in commands if not is_ours(command)] == []
