"""The client of the management API: where each parameter goes, and how it reads all pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import pytest

from holdfast.api.cli.client import PAGE_SIZE, Management
from holdfast.api.management.holds import release_holds
from holdfast.api.management.keys import list_keys, update_key
from holdfast.api.management.operation import Operation
from holdfast.api.management.usage import get_namespace_usage
from holdfast.api.management.views import KeyAnswer, KeysAnswer, ReleasedAnswer

A = TypeVar("A", bound=msgspec.Struct)

ONE = UUID(int=1)


class Backend:
    """Gives the answers one by one, and keeps the parameters of each call."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[str, dict[str, object], dict[str, str], dict[str, object]]] = []

    async def call(
        self,
        operation: Operation[A],
        *,
        path: Mapping[str, object],
        query: Mapping[str, str],
        body: Mapping[str, object],
    ) -> A:
        self.calls.append((operation.id, dict(path), dict(query), dict(body)))
        answer: Any = self.answers.pop(0)
        assert isinstance(answer, operation.answer)
        return answer


def key(name: str) -> KeyAnswer:
    return KeyAnswer(
        access_key=name,
        project_id=None,
        default_project_id=ONE,
        organization_id=ONE,
        permission="full",
        description="",
        created_at="",
        expires_at=None,
    )


def released(count: int, after: str | None) -> ReleasedAnswer:
    return ReleasedAnswer(released=count, released_size=0, kept=0, after=after)


async def test_parameters_go_where_the_operation_declares_them() -> None:
    backend = Backend(key("SCW"))
    await Management(backend).ask(update_key, access_key="SCW", expires_at=None)
    assert backend.calls == [("UpdateKey", {"access_key": "SCW"}, {}, {"expires_at": None})]


async def test_a_query_has_texts_and_no_none() -> None:
    backend = Backend(KeysAnswer([], 0), KeysAnswer([], 0))
    api = Management(backend)
    await api.ask(list_keys, project_id=ONE, page=2)
    await api.ask(list_keys, project_id=None)
    assert [call[2] for call in backend.calls] == [{"project_id": str(ONE), "page": "2"}, {}]


@pytest.mark.parametrize("name", ["namespace", "would_be_free", "body"])
async def test_an_unknown_parameter_is_refused(name: str) -> None:
    """The API ignores one, so that a slip would go unseen."""
    backend = Backend()
    with pytest.raises(TypeError, match=f"GetNamespaceUsage has no parameter {name}"):
        await Management(backend).ask(get_namespace_usage, namespace_id=ONE, **{name: True})
    assert backend.calls == []


@pytest.mark.parametrize("counts", [(0,), (1,), (PAGE_SIZE, 0), (PAGE_SIZE, PAGE_SIZE, 3)])
async def test_pages_by_number_end_with_one_that_is_not_full(counts: Sequence[int]) -> None:
    backend = Backend(*(KeysAnswer([key("SCW")] * count, 0) for count in counts))
    found = [page async for page in Management(backend).pages(list_keys, project_id=ONE)]
    assert [len(page.keys) for page in found] == list(counts)
    assert [call[2] for call in backend.calls] == [
        {"project_id": str(ONE), "page": str(number), "page_size": str(PAGE_SIZE)}
        for number in range(1, len(counts) + 1)
    ]


async def test_pages_by_position_end_without_one() -> None:
    backend = Backend(released(3, "aa"), released(0, "bb"), released(1, None))
    api = Management(backend)
    found = [page.released async for page in api.pages(release_holds, namespace_id=ONE)]
    assert found == [3, 0, 1]
    assert [call[2] for call in backend.calls] == [{}, {"after": "aa"}, {"after": "bb"}]
