"""Operations for retention rules of a namespace: get, replace, plan, apply."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from holdfast.engine import Plan, RetentionRule

from .auth import namespace_of
from .errors import LockedBody
from .operation import HOLDFAST_REGION, Call, Nothing, Operation
from .views import ExpiredAnswer, PlanAnswer, Rule, RulesAnswer, convert


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


async def get_retention(call: Call[Nothing, Nothing]) -> RulesAnswer:
    """Return the rules of a namespace."""
    return await _rules_answer(call, (await namespace_of(call, "read")).id)


async def update_retention(call: Call[Nothing, Rules]) -> RulesAnswer:
    """Replace the rules of a namespace."""
    namespace = await namespace_of(call, "write")
    rules = msgspec.convert(call.body.rules, list[RetentionRule], from_attributes=True)
    await call.store.retention.set(namespace.id, rules)
    return await _rules_answer(call, namespace.id)


async def plan_retention(call: Call[Nothing, Nothing]) -> PlanAnswer:
    """Return the tags and manifests that the rules would remove now."""
    namespace = await namespace_of(call, "read")
    return _plan_answer(call, namespace.id, await call.store.retention.plan(namespace.id))


async def apply_retention(call: Call[Nothing, Nothing]) -> PlanAnswer:
    """Apply the rules and return the tags and manifests that were removed."""
    namespace = await namespace_of(call, "write")
    return _plan_answer(call, namespace.id, await call.store.retention.apply(namespace.id))


_PATH: Final = HOLDFAST_REGION + "/namespaces/{namespace_id}/retention"

OPERATIONS: Final = (
    Operation(
        id="GetRetention",
        method="GET",
        path=_PATH,
        summary="Get the retention rules of a namespace",
        handler=get_retention,
        answer=RulesAnswer,
    ),
    Operation(
        id="UpdateRetention",
        method="PATCH",
        path=_PATH,
        summary="Replace the retention rules of a namespace",
        handler=update_retention,
        answer=RulesAnswer,
        body=Rules,
        writes=True,
        errors=(LockedBody,),
    ),
    Operation(
        id="PlanRetention",
        method="GET",
        path=_PATH + "/plan",
        summary="List what the retention rules would remove now: a dry run",
        handler=plan_retention,
        answer=PlanAnswer,
    ),
    Operation(
        id="ApplyRetention",
        method="POST",
        path=_PATH + "/apply",
        summary="Apply the retention rules now",
        handler=apply_retention,
        answer=PlanAnswer,
        writes=True,
        errors=(LockedBody,),
    ),
)
