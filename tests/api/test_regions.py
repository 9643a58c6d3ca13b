"""Each region has an endpoint of its own, and what is pushed there lands in that region."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.cli import Shell
from support.server import WAIT_SECONDS, ServerProcess, running

from holdfast.api import AppSettings
from holdfast.api.http.defaults import REGIONS_DEFAULT
from holdfast.api.http.regions import endpoint_of, region_at

pytestmark = pytest.mark.slow

PLACES = (
    AppSettings(),
    AppSettings(ports={"fr-par": 5000, "nl-ams": 5001, "pl-waw": 5002}),
    AppSettings(ports={"fr-par": 80, "nl-ams": 443}),
    AppSettings(ports={"fr-par": 5000}, default_endpoint="hub.example"),
    AppSettings(default_endpoint="nl-ams.example:5000"),
    AppSettings(endpoints={"nl-ams": "localhost:5001"}, ports={"fr-par": 5000, "pl-waw": 5002}),
    AppSettings(endpoints={"fr-par": "rg.example", "nl-ams": "nl.rg.example:8443"}),
)

LABELS = st.sampled_from(["localhost", "127.0.0.1", "hub", "example", *REGIONS_DEFAULT, "NL-AMS"])
PORTS = st.sampled_from(["", ":80", ":443", ":5000", ":5001", ":5002", ":8080"])
HOSTS = st.builds(
    lambda names, port: ".".join(names) + port, st.lists(LABELS, min_size=1, max_size=4), PORTS
) | st.builds(lambda port: f"[::1]{port}", PORTS)


@given(
    places=st.sampled_from(PLACES),
    host=HOSTS,
    scheme=st.sampled_from(["http", "https"]),
    region=st.sampled_from(REGIONS_DEFAULT),
)
@example(PLACES[0], "nl-ams.hub.example:5000", "http", "fr-par")
def test_an_endpoint_leads_to_the_region_it_was_said_of(
    places: AppSettings, host: str, scheme: str, region: str
) -> None:
    endpoint = endpoint_of(region, host, scheme, places)
    assert region_at(endpoint, scheme, places) == region
    assert endpoint_of(region, endpoint, scheme, places) == endpoint


@pytest.mark.parametrize(
    ("places", "host", "endpoints"),
    [
        (PLACES[0], "hub.example", ["hub.example", "nl-ams.hub.example", "pl-waw.hub.example"]),
        (PLACES[0], "nl-ams.hub.example:81", ["hub.example:81", "nl-ams.hub.example:81"]),
        (PLACES[1], "localhost:5000", ["localhost:5000", "localhost:5001", "localhost:5002"]),
        (PLACES[1], "[::1]:5002", ["[::1]:5000", "[::1]:5001", "[::1]:5002"]),
        # A port that somebody in between gave another number.
        (PLACES[1], "machine:8080", ["machine:8080", "machine:5001", "machine:5002"]),
        (PLACES[3], "127.0.0.1:5000", ["hub.example", "nl-ams.hub.example"]),
        (PLACES[5], "127.0.0.1:5002", ["127.0.0.1:5000", "localhost:5001", "127.0.0.1:5002"]),
        (PLACES[6], "rg.example", ["rg.example", "nl.rg.example:8443", "pl-waw.rg.example"]),
    ],
)
def test_where_the_regions_are(places: AppSettings, host: str, endpoints: list[str]) -> None:
    pairs = zip(REGIONS_DEFAULT, endpoints, strict=False)
    for region, endpoint in pairs:
        assert endpoint_of(region, host, "http", places) == endpoint


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running(tmp_path_factory.mktemp("server") / "data") as process:
        yield process


def push(registry: str, name: str, data: bytes, secret: str) -> None:
    """Push an image of one blob, as docker does it: to the host that the endpoint begins with."""
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    credentials = base64.b64encode(f"nologin:{secret}".encode()).decode()
    headers = {"Authorization": f"Basic {credentials}"}
    connection = HTTPConnection(registry, timeout=WAIT_SECONDS)
    try:
        connection.request("POST", f"/v2/{name}/blobs/uploads/?digest={digest}", data, headers)
        answer = connection.getresponse()
        assert answer.status == 201, answer.read()
        answer.read()
        described = {"mediaType": "application/octet-stream", "digest": digest, "size": len(data)}
        kind = "application/vnd.oci.image.manifest.v1+json"
        manifest = json.dumps(
            {"schemaVersion": 2, "mediaType": kind, "config": described, "layers": []}
        ).encode()
        headers["Content-Type"] = kind
        connection.request("PUT", f"/v2/{name}/manifests/v1", manifest, headers)
        answer = connection.getresponse()
        assert answer.status == 201, answer.read()
    finally:
        connection.close()


def test_a_push_to_each_endpoint_lands_in_its_region(server: ServerProcess, tmp_path: Path) -> None:
    remote = Shell(tmp_path, server.variables())
    local = Shell(tmp_path, {"HOLDFAST_DATA": str(server.data)})
    secret = remote.variables["SCW_SECRET_KEY"]
    registries = set()
    for number, region in enumerate(REGIONS_DEFAULT):
        made = remote.json("namespace", "create", "team", "--region", region)
        registry, _, name = made["endpoint"].partition("/")
        assert name == "team"
        push(registry, "team/web", b"x" * (number + 1), secret)
        # The same port under another name of this machine.
        push(registry.replace("127.0.0.1", "localhost"), "team/app", b"x" * 10, secret)
        registries.add(registry)
        variables = json.loads(local.ok("env", "--region", region, "--json"))
        assert (variables["HOLDFAST_REGISTRY"], variables["SCW_REGION"]) == (registry, region)
    assert len(registries) == 3
    for number, region in enumerate(REGIONS_DEFAULT):
        there = remote.json("namespace", "get", "team", "--region", region)
        assert there["size"] == number + 1 + 10
        assert local.json("namespace", "get", "team", "--region", region) == there


def test_an_endpoint_is_the_same_whichever_region_is_asked(
    server: ServerProcess, tmp_path: Path
) -> None:
    shell = Shell(tmp_path, server.variables())
    made = shell.json("namespace", "create", "asked")
    elsewhere = shell.json("namespace", "create", "asked", "--region", "nl-ams")
    url = "http://" + elsewhere["endpoint"].partition("/")[0]
    asked = shell.json("namespace", "get", "asked", "--region", "fr-par", SCW_API_URL=url)
    assert asked["endpoint"] == made["endpoint"]


def test_a_region_that_the_server_has_not(server: ServerProcess, tmp_path: Path) -> None:
    here = Shell(tmp_path, {"HOLDFAST_DATA": str(server.data)})
    for command in (("namespace", "list"), ("namespace", "create", "team"), ("env",)):
        refusal = here.refused(2, *command, "--region", "us-east")
        assert refusal == "--region: 'us-east' is not one of fr-par, nl-ams, pl-waw"
    there = Shell(tmp_path, server.variables())
    assert there.refused(3, "namespace", "list", "--region", "us-east").startswith("region us-east")


def test_behind_a_public_url_a_region_is_a_name_below_it(tmp_path: Path) -> None:
    with running(tmp_path / "data", "--public-url=https://hub.example") as server:
        assert len(server.lines) == 1
        shell = Shell(tmp_path, {"HOLDFAST_DATA": str(server.data)})
        for region, place in (("fr-par", "hub.example"), ("pl-waw", "pl-waw.hub.example")):
            made = shell.json("namespace", "create", "team", "--region", region)
            assert made["endpoint"] == f"{place}/team"
