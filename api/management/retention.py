"""Operations for retention rules of a namespace: get, replace, plan, apply."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from holdfast.engine import Plan, RetentionRule

from .auth import namespace_of
from .errors import LockedBody
from .operation import HOLDFAST_REGION, Call, Nothing, operation
from .views import ExpiredAnswer, PlanAnswer, Rule, RulesAnswer, convert

_PATH: Final = HOLDFAST_REGION + "/namespaces/{namespace_id}/retention"


class Rules(msgspec.Struct, kw_only=True):
    """All rules of a namespace; they replace the current ones."""

    rules: Annotated[list[Rule], Meta(max_length=32)]


def _plan_answer(call: Call[Nothing, Nothing], namespace_id: UUID, plan: Plan) -> PlanAnswer:
    return convert(
        plan,
        PlanAnswer,
        namespace_id=namespace_id,
        expired=[convert(item, ExpiredAnswer) for item in plan.expired],
        # A key of one project must not learn what other projects store.
        freed_bytes=plan.freed_bytes if call.project_id is None else plan.project_freed_bytes,
    )


async def _rules_answer(call: Call[Any, Any], namespace_id: UUID) -> RulesAnswer:
    rules = await call.store.retention.get(namespace_id)
    return RulesAnswer(namespace_id=namespace_id, rules=[convert(rule, Rule) for rule in rules])


@operation("GET", _PATH, "Get the retention rules of a namespace")
async def get_retention(call: Call[Nothing, Nothing]) -> RulesAnswer:
    """Return the rules of a namespace."""
    return await _rules_answer(call, (await namespace_of(call, "read")).id)


@operation(
    "PATCH", _PATH, "Replace the retention rules of a namespace", writes=True, errors=(LockedBody,)
)
async def update_retention(call: Call[Nothing, Rules]) -> RulesAnswer:
    """Replace the rules of a namespace."""
    namespace = await namespace_of(call, "write")
    rules = msgspec.convert(call.body.rules, list[RetentionRule], from_attributes=True)
    await call.store.retention.set(namespace.id, rules)
    return await _rules_answer(call, namespace.id)


@operation("GET", _PATH + "/plan", "List what the retention rules would remove now: a dry run")
async def plan_retention(call: Call[Nothing, Nothing]) -> PlanAnswer:
    """Return the tags and manifests that the rules would remove now."""
    namespace = await namespace_of(call, "read")
    return _plan_answer(call, namespace.id, await call.store.retention.plan(namespace.id))


@operation(
    "POST", _PATH + "/apply", "Apply the retention rules now", writes=True, errors=(LockedBody,)
)
async def apply_retention(call: Call[Nothing, Nothing]) -> PlanAnswer:
    """Apply the rules and return the tags and manifests that were removed."""
    namespace = await namespace_of(call, "write")
    return _plan_answer(call, namespace.id, await call.store.retention.apply(namespace.id))


OPERATIONS: Final = (get_retention, update_retention, plan_retention, apply_retention)
