"""The application alone, and inside another one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from aiohttp import ClientSession, web

from holdfast.api import AppSettings, create_app
from holdfast.api.management.app import DOCUMENT_PATH
from holdfast.api.management.operations import OPERATIONS
from holdfast.engine import Store


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[tuple[ClientSession, str]]:
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        async with ClientSession() as session:
            yield session, f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def test_it_stands_alone() -> None:
    async with Store.memory() as store, serving(create_app(store)) as (session, url):
        for path, status in (("/healthz", 200), ("/readyz", 200), ("/v2/", 401)):
            async with session.get(url + path) as answer:
                assert answer.status == status
                UUID(answer.headers["X-Request-Id"])


async def test_each_request_has_its_own_id() -> None:
    async with Store.memory() as store, serving(create_app(store)) as (session, url):
        seen = set()
        for path in ("/healthz", "/healthz", "/nothing", "/v2/"):
            async with session.get(url + path) as answer:
                seen.add(answer.headers["X-Request-Id"])
        assert len(seen) == 4


async def test_it_is_not_ready_without_its_store() -> None:
    store = Store.memory()
    await store.start()
    async with serving(create_app(store)) as (session, url):
        await store.close()
        async with session.get(url + "/readyz") as answer:
            assert answer.status == 503
        async with session.get(url + "/healthz") as answer:
            assert answer.status == 200


async def test_two_of_them_inside_another_application() -> None:
    """Each with a store and settings of its own, and the parent's routes beside them."""

    async def mine(_request: web.Request) -> web.Response:
        return web.Response(text="mine")

    async with Store.memory() as one, Store.memory() as two:
        parent = web.Application()
        parent.router.add_get("/mine", mine)
        parent.add_subapp("/one", create_app(one))
        parent.add_subapp("/two", create_app(two, AppSettings(regions=("nl-ams",))))
        secrets = []
        for store in (one, two):
            project = UUID("aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee")
            _, secret = await store.keys.create(
                project_id=None, default_project_id=project, organization_id=project
            )
            secrets.append(secret)
        async with serving(parent) as (session, url):

            async def status(path: str, secret: str) -> int:
                headers = {"X-Auth-Token": secret}
                async with session.get(url + path, headers=headers) as answer:
                    UUID(answer.headers["X-Request-Id"])
                    return answer.status

            path = "registry/v1/regions/nl-ams/namespaces"
            assert await status(f"/one/{path}", secrets[0]) == 200
            assert await status(f"/two/{path}", secrets[1]) == 200
            assert await status(f"/two/{path}", secrets[0]) == 401
            paris = "registry/v1/regions/fr-par/namespaces"
            assert await status(f"/one/{paris}", secrets[0]) == 200
            assert await status(f"/two/{paris}", secrets[1]) != 200
            async with session.get(url + "/mine") as answer:
                assert await answer.text() == "mine"
                assert "X-Request-Id" not in answer.headers


async def test_every_route_is_of_a_kind_whose_callers_are_tested() -> None:
    """Who may do what on ``/v2/`` and in the management API is tested from tables that these two
    are made of (``test_security_distribution``, ``test_security_management``). Whoever adds a
    route beside them says here that it tells everybody the same."""
    told_to_everybody = {"/healthz", "/readyz", DOCUMENT_PATH}
    asks_for_a_key = {"/token"}
    store = Store.memory()
    routes = {resource.canonical for resource in create_app(store).router.resources()}
    operations = {operation.path for operation in OPERATIONS}
    assert operations <= routes
    nowhere = {"/registry", "/registry/{tail}", "/holdfast", "/holdfast/{tail}", "/{tail}"}
    rest = routes - operations - told_to_everybody - asks_for_a_key - nowhere
    assert rest == {"/v2", "/v2/{tail}"}
