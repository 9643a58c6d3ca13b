"""What the server can be told, and what it answers to nonsense: one line that names the option."""

from __future__ import annotations

import os
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path
from uuid import uuid4

import pytest

from holdfast.api.server.settings import Address, BadSetting, Settings


def test_defaults() -> None:
    settings = Settings.parse()
    assert settings.data == Path("data")
    assert settings.listen == Address("127.0.0.1", 5000)
    assert settings.workers == len(os.sched_getaffinity(0))
    assert settings.regions == ("fr-par", "nl-ams", "pl-waw")


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("localhost:5001", Address("localhost", 5001), "localhost:5001"),
        ("127.0.0.1", Address("127.0.0.1"), "127.0.0.1"),
        ("[::1]:80", Address("::1", 80), "[::1]:80"),
        ("rg.fr-par.example.org", Address("rg.fr-par.example.org"), "rg.fr-par.example.org"),
    ],
)
def test_addresses(text: str, address: Address, shown: str) -> None:
    assert Address.parse(text) == address
    assert str(address) == shown


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_wildcard_is_reached_through_loopback(host: str) -> None:
    assert Address(host, 5000).reachable().host in {"127.0.0.1", "::1"}


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--listen", {"listen": ""}),
        ("--listen", {"listen": "localhost:65536"}),
        ("--listen", {"listen": "localhost:http"}),
        ("--listen", {"listen": "::1:5000"}),
        ("--listen", {"listen": "[localhost]:5000"}),
        ("--listen", {"listen": "http://localhost:5000"}),
        ("--data", {"data": ""}),
        ("--workers", {"workers": 0}),
        ("--workers", {"workers": 257}),
        ("--max-connections", {"max_connections": 0}),
        ("--max-connections", {"max_connections": 1_000_001}),
        ("--region", {"regions": ["fr_par"]}),
        ("--region", {"regions": ["fr-par", "fr-par"]}),
        ("--region", {"regions": [""]}),
        ("--endpoint", {"endpoints": ["localhost:5001"]}),
        ("--endpoint", {"endpoints": ["mars=localhost:5001"]}),
        ("--endpoint", {"endpoints": ["nl-ams=localhost:0"]}),
        ("--endpoint", {"endpoints": ["nl-ams=a:1", "nl-ams=b:1"]}),
        ("--endpoint", {"endpoints": ["nl-ams=a:1", "pl-waw=a:1"]}),
        ("--public-url", {"public_url": "registry.example.org"}),
        ("--public-url", {"public_url": "https://registry.example.org/?a=b"}),
        ("--trusted-proxy", {"trusted_proxies": ["10.0.0.1/8"]}),
        ("--trusted-proxy", {"trusted_proxies": ["proxy"]}),
        ("--token-seconds", {"token_seconds": 59}),
        ("--grace", {"grace_seconds": -1.0}),
        ("--grace", {"grace_seconds": float("nan")}),
    ],
)
def test_nonsense_is_refused_and_named(option: str, values: dict[str, object]) -> None:
    with pytest.raises(BadSetting) as caught:
        Settings.parse(**values)
    assert caught.value.option == option
    assert "\n" not in str(caught.value)


def test_the_application_gets_its_part() -> None:
    organization_id = uuid4()
    settings = Settings.parse(
        regions=["nl-ams", "fr-par"],
        endpoints=["fr-par=localhost:5001"],
        public_url="https://registry.example.org/",
        trusted_proxies=["10.0.0.0/8", "::1"],
    ).for_app(organization_id, {"nl-ams": 5000})
    assert settings.default_region == "nl-ams"
    assert settings.endpoints == {"fr-par": "localhost:5001"}
    assert settings.public_url == "https://registry.example.org"
    assert settings.default_endpoint == "registry.example.org"
    assert settings.ports == {"nl-ams": 5000}
    assert settings.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("::1"))
    assert settings.organization_id == organization_id


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["--workers", "none"], {}, "--workers"),
        ([], {"HOLDFAST_WORKERS": "0"}, "--workers"),
        ([], {"HOLDFAST_REGION": "fr-par,fr_par"}, "fr_par"),
        (["--nonsense"], {}, "--nonsense"),
        (["--region", "mars!"], {"HOLDFAST_REGION": "fr-par"}, "mars!"),
    ],
)
def test_the_command_says_it_in_one_line(
    arguments: list[str], environment: dict[str, str], said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "holdfast.api.cli.main", "serve", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("holdfast: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
