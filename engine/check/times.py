"""Times: none is later than now, as far as a clock is asked."""

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


async def times(look: CheckContext) -> None:
    """One problem for each kind of row with times that the sweep would cut (``future_times``)."""
    if look.now is None:
        return
    for kind, (record_type, names) in future_times.TIMES.items():
        count = latest = 0
        async for _, record in look.records(record_type, kind):
            late = future_times.late_of(record, names, look.now)
            count += bool(late)
            latest = max(latest, *(getattr(record, name) for name in late), 0)
        _say(look, kind, count, latest)
    periods = await future_times.stored(look.txn)
    if periods is None:
        return
    for queue in future_times.QUEUES:
        beyond = periods.until(queue, look.now) + future_times.SLACK
        count = latest = 0
        async for key, _ in look.stored(queue):
            if layout.at(key, 1) > beyond:
                count, latest = count + 1, layout.at(key, 1)
        _say(look, queue, count, latest)

    beyond = periods.until(keys.SIGNING, look.now) + future_times.SLACK
    count = 0 if look.unreadable(keys.SIGNING) else await keys.far_signing_keys(look.txn, beyond)
    _say(look, keys.SIGNING, count, beyond)


def _say(look: CheckContext, kind: bytes, count: int, latest: int) -> None:
    if not count:
        return
    try:
        shown = moment(latest).isoformat(timespec="seconds")
    except OverflowError:
        shown = "after the year 9999"
    look.say(
        "clock",
        _NAMES[kind],
        f"{count} with times that a right clock cannot have made, the latest {shown}: the clock is"
        " behind, or was ahead; then the sweep cuts them",
    )
