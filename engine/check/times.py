"""Check that no time is later than the time of the check."""

from __future__ import annotations

from typing import Final

from holdfast.engine.ledger import layout
from holdfast.engine.model.values import moment
from holdfast.engine.namespaces import keys
from holdfast.engine.trash import future_times

from .context import CheckContext

_NAMES: Final = {
    layout.NAMESPACE: "namespaces",
    layout.IMAGE: "images",
    layout.TAG: "tags",
    layout.MANIFEST: "manifests",
    layout.KEY: "keys",
    layout.EXPIRY: "holds",
    layout.GARBAGE: "garbage",
    layout.TRASH: "trash",
    keys.SIGNING: "signing keys",
}


async def times(context: CheckContext) -> None:
    """Report one problem for each kind of row with times that the sweep would cut.

    ``future_times`` says which.
    """
    if context.now is None:
        return
    for kind, (record_type, names) in future_times.TIME_FIELDS.items():
        count = latest = 0
        async for _, record in context.records(record_type, kind):
            late = future_times.future_fields(record, names, context.now)
            count += bool(late)
            latest = max(latest, *(getattr(record, name) for name in late), 0)
        _report(context, kind, count, latest)
    periods = await future_times.stored_periods(context.txn)
    if periods is None:
        return
    for queue in future_times.QUEUES:
        beyond = periods.until(queue, context.now) + future_times.SLACK
        count = latest = 0
        async for key, _ in context.stored_rows(queue):
            if layout.at(key, 1) > beyond:
                count, latest = count + 1, layout.at(key, 1)
        _report(context, queue, count, latest)

    beyond = periods.until(keys.SIGNING, context.now) + future_times.SLACK
    count = (
        0
        if context.is_unreadable(keys.SIGNING)
        else await keys.far_signing_keys(context.txn, beyond)
    )
    _report(context, keys.SIGNING, count, beyond)


def _report(context: CheckContext, kind: bytes, count: int, latest: int) -> None:
    if not count:
        return
    try:
        shown = moment(latest).isoformat(timespec="seconds")
    except OverflowError:
        shown = "after the year 9999"
    context.item("clock", _NAMES[kind]).report(
        f"{count} with times too far in the future, the latest {shown}: the clock is behind, or was"
        " ahead (then the sweep corrects them)"
    )
