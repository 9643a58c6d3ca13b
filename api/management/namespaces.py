"""Operations for namespaces: list, create, get, update, delete."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from holdfast.engine import Namespace

from .auth import namespace_of
from .errors import AlreadyExistsBody, LockedBody, PreconditionFailedBody, denied
from .operation import SCALEWAY, Call, Nothing, operation
from .paging import PageNumber, PageSize
from .views import NamespaceAnswer, NamespacesAnswer, convert

_ALL: Final = SCALEWAY + "/namespaces"
_ONE: Final = _ALL + "/{namespace_id}"

NamespaceOrder = Literal[
    "created_at_asc",
    "created_at_desc",
    "description_asc",
    "description_desc",
    "name_asc",
    "name_desc",
]


class ListNamespaces(msgspec.Struct, kw_only=True):
    """Filters are combined with AND."""

    page: PageNumber = 1
    page_size: PageSize = 20
    order_by: NamespaceOrder = "created_at_asc"
    organization_id: UUID | None = None
    project_id: UUID | None = None
    name: Annotated[str, Meta(description="Exact name")] | None = None


class CreateNamespace(msgspec.Struct, kw_only=True):
    """``project_id`` overrides ``organization_id``; the default is the key's default project."""

    name: Annotated[
        str,
        Meta(
            min_length=2,
            max_length=63,
            pattern="^[a-z0-9][a-z0-9-]*[a-z0-9]$",
            description="Unique in the region",
        ),
    ]
    description: Annotated[str, Meta(max_length=1000)] | None = None
    is_public: bool | None = None
    project_id: UUID | None = None
    organization_id: UUID | None = None


class UpdateNamespace(msgspec.Struct, kw_only=True):
    """Absent and null fields keep their value."""

    description: Annotated[str, Meta(max_length=1000)] | None = None
    is_public: bool | None = None


def _answer(call: Call[Any, Any], namespace: Namespace) -> NamespaceAnswer:
    endpoint = f"{call.endpoint(namespace.region)}/{namespace.name}"
    return convert(namespace, NamespaceAnswer, status_message="", endpoint=endpoint)


@operation("GET", _ALL, "List namespaces")
async def list_namespaces(call: Call[ListNamespaces, Nothing]) -> NamespacesAnswer:
    """Return a page of the namespaces that the key covers."""
    query = call.query
    if not call.lists(query.project_id, query.organization_id):
        return NamespacesAnswer([], 0)
    page = await call.store.namespaces.list(
        call.region,
        order=query.order_by,
        page=query.page,
        page_size=query.page_size,
        project_id=query.project_id or call.project_id,
        name=query.name,
    )
    return NamespacesAnswer([_answer(call, item) for item in page.items], page.total)


@operation("POST", _ALL, "Create a namespace", writes=True, errors=(AlreadyExistsBody,))
async def create_namespace(call: Call[Nothing, CreateNamespace]) -> NamespaceAnswer:
    """Create a namespace, ready at once."""
    body = call.body
    project_id = body.project_id
    if project_id is None:
        if body.organization_id not in (None, call.organization_id):
            raise denied("organization", "write")
        project_id = call.key.default_project_id
    if not call.key.covers(project_id):
        raise denied("namespace", "create")
    namespace = await call.store.namespaces.create(
        call.region,
        body.name,
        project_id=project_id,
        organization_id=call.organization_id,
        description=body.description or "",
        is_public=bool(body.is_public),
    )
    return _answer(call, namespace)


@operation("GET", _ONE, "Get a namespace")
async def get_namespace(call: Call[Nothing, Nothing]) -> NamespaceAnswer:
    """Return a namespace with its exact size."""
    return _answer(call, await namespace_of(call, "read"))


@operation("PATCH", _ONE, "Update a namespace", writes=True, errors=(LockedBody,))
async def update_namespace(call: Call[Nothing, UpdateNamespace]) -> NamespaceAnswer:
    """Change a namespace. ``updated_at`` changes even if nothing else does."""
    namespace = await namespace_of(call, "write")
    changed = await call.store.namespaces.update(
        namespace.id, description=call.body.description, is_public=call.body.is_public
    )
    return _answer(call, changed)


@operation(
    "DELETE",
    _ONE,
    "Delete a namespace and its images",
    writes=True,
    errors=(LockedBody, PreconditionFailedBody),
)
async def delete_namespace(call: Call[Nothing, Nothing]) -> NamespaceAnswer:
    """Delete a namespace with its images. Its name is free at once."""
    namespace = await namespace_of(call, "delete")
    return _answer(call, await call.store.namespaces.delete(namespace.id))


OPERATIONS: Final = (
    list_namespaces,
    create_namespace,
    get_namespace,
    update_namespace,
    delete_namespace,
)
