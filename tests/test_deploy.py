"""What deploy/ holds is what the server takes and tells."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from support.common import ROOT, require_tool
from support.operating import NAMESPACES, call, eventually, metrics_address, operated
from support.server import WAIT_SECONDS
from support.systemd import booted

from holdfast.api.server.settings import OPTIONS, Settings

DEPLOY = ROOT / "deploy"


@pytest.mark.slow
def test_the_dashboard_shows_every_metric_that_is_served(tmp_path: Path) -> None:
    """By name, also those that count nothing yet; and there is none that it does not show."""
    dashboard = json.loads((DEPLOY / "grafana.json").read_text("utf-8"))
    page = (ROOT / "docs" / "operating.md").read_text("utf-8")
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    names = set(re.findall(r"\bholdfast_\w+", "\n".join([*asked, page])))
    with operated(tmp_path / "data", "--metrics=127.0.0.1:0") as server:
        text = call(metrics_address(server), "GET", "/metrics").body.decode()
    families = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    # What a query asks for by each name, and the family that it shows.
    served = {name: name for name in families}
    for name, kind in families.items():
        if kind == "histogram":
            served |= {f"{name}_{part}": name for part in ("bucket", "sum", "count")}
    assert names <= served.keys()
    shown = {served[name] for name in re.findall(r"\bholdfast_\w+", "\n".join(asked))}
    assert shown == families.keys()
    for expression in asked:
        for rated in re.findall(r"rate\((\w+)\[", expression):
            assert families[served[rated]] in {"counter", "histogram"}, expression


def test_the_panels_do_not_overlap() -> None:
    dashboard = json.loads((DEPLOY / "grafana.json").read_text("utf-8"))
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)


def test_the_file_has_keys_that_exist() -> None:
    table = tomllib.loads((DEPLOY / "holdfast.toml").read_text("utf-8"))
    assert table
    assert table.keys() <= OPTIONS.keys()


def test_the_unit_starts_with_that_file_and_may_write_where_it_says() -> None:
    unit = (DEPLOY / "holdfast.service").read_text("utf-8")
    assert "serve --config /etc/holdfast.toml\n" in unit
    table = tomllib.loads((DEPLOY / "holdfast.toml").read_text("utf-8"))
    for key, place in (("StateDirectory", "/var/lib/"), ("LogsDirectory", "/var/log/")):
        (name,) = re.findall(rf"^{key}=(\w+)$", unit, re.MULTILINE)
        assert any(str(value).startswith(place + name) for value in table.values())
    assert "\nProtectSystem=strict\n" in unit


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """It only warns of a key that it does not know, and ignores it."""
    unit = tmp_path / "holdfast.service"
    text = (DEPLOY / "holdfast.service").read_text("utf-8")
    command = require_tool("true")
    assert text.count("ExecStart=/usr/local/bin/holdfast ") == 1
    unit.write_text(text.replace("ExecStart=/usr/local/bin/holdfast ", f"ExecStart={command} "))
    analyze = require_tool("systemd-analyze")
    for question in (("verify", "--man=no"), ("security", "--offline=yes", "--threshold=20")):
        done = subprocess.run(
            [analyze, *question, unit],
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.image
def test_systemd_runs_the_unit(tmp_path: Path) -> None:
    """As it stands, with all that it locks up: it serves, reloads, is killed, comes back, stops."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with booted(scratch) as systemd:

        def address(starts: int) -> str:
            ready = re.compile(r"^holdfast is ready on http://(\S+) ", re.MULTILINE)
            eventually(lambda: len(ready.findall(systemd.said())) == starts)
            return str(ready.findall(systemd.said())[-1])

        here = address(1)
        main = systemd.show("MainPID")
        status = systemd.run("cat", f"/proc/{main}/status")
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
        assert "\nNoNewPrivs:\t1\n" in status
        assert "\nSeccomp:\t2\n" in status
        assert "\nUid:\t0\t" not in status
        owner = json.loads(systemd.run("cat", "/var/lib/holdfast/owner.json"))
        secret = {"X_Auth_Token": owner["secret_key"], "Content_Type": "application/json"}
        assert call(here, "POST", NAMESPACES, b'{"name": "team"}', **secret).status == 200
        assert "CreateNamespace" in systemd.run("cat", "/var/log/holdfast/audit.log")
        workers = systemd.workers()
        systemd.run("systemctl", "reload", "holdfast")
        eventually(
            lambda: len(systemd.workers()) >= len(workers) and not workers & systemd.workers()
        )
        assert call(here, "GET", "/readyz").status == 200
        systemd.run("kill", "-KILL", main)
        here = address(2)
        assert call(here, "GET", NAMESPACES, **secret).json["namespaces"][0]["name"] == "team"
        for place in ("/var/lib/holdfast", "/var/log/holdfast"):
            assert systemd.run("stat", "--dereference", "--format=%a %U", place) == "700 holdfast\n"
        systemd.run("systemctl", "stop", "holdfast")
        assert (systemd.show("Result"), systemd.show("ExecMainStatus")) == ("success", "0")


def test_a_stop_has_more_time_than_running_requests() -> None:
    unit = (DEPLOY / "holdfast.service").read_text("utf-8")
    (service,) = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"].values()
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert service["stop_grace_period"] == f"{seconds}s"
    assert float(seconds) > Settings.parse().grace_seconds


def test_compose_is_read_only_and_sets_what_exists() -> None:
    (service,) = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"].values()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert (DEPLOY / service["build"]["context"] / "Dockerfile").exists()
    assert set(service["environment"]) <= {option.variable for option in OPTIONS.values()}
    (volume,) = service["volumes"]
    image = (ROOT / "Dockerfile").read_text("utf-8")
    assert f"VOLUME {volume.partition(':')[2]}\n" in image
    assert "\nUSER holdfast\n" in image
