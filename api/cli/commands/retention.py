"""``holdfast retention``: show, set, plan and apply the retention rules of a namespace."""

from __future__ import annotations

from typing import BinaryIO, Final

import click
import msgspec

from holdfast.api.cli.options import confirm, example, yes_option
from holdfast.api.cli.output import Table, print_fields, print_json, print_rows, size
from holdfast.api.cli.session import Session, session_command
from holdfast.api.management.retention import (
    Rules,
    apply_retention,
    get_retention,
    plan_retention,
    update_retention,
)
from holdfast.api.management.views import PlanAnswer, RulesAnswer

FILE_BYTES_MAX: Final = 1 << 20
"""Largest rules file in bytes; far above the limit of the API."""

_RULES: Final[Table] = {
    "images": lambda rule: " ".join(rule.images),
    "tags": lambda rule: " ".join(rule.tags),
    "keep last": lambda rule: rule.keep_last,
    "older than": lambda rule: _days(rule.older_than_days),
    "not pulled for": lambda rule: _days(rule.not_pulled_for_days),
    "untagged older than": lambda rule: _days(rule.untagged_older_than_days),
}
_EXPIRED: Final[Table] = {
    "image": lambda item: item.image,
    "tag": lambda item: item.tag,
    "digest": lambda item: item.digest,
    "goes with": lambda item: "(orphan)" if item.orphan else item.belongs_to,
    "artifact type": lambda item: item.artifact_type,
}


def _days(count: int | None) -> str | None:
    return None if count is None else f"{count} days"


@click.group(epilog=example("retention plan team"))
def retention() -> None:
    """Manage retention rules, which remove tags and untagged manifests of a namespace.

    A rule removes a tag if it matches its patterns and meets all conditions of the rule.
    Signatures and the like (tags sha256-..., with .sig, .att or .sbom) are removed together with
    the manifest they belong to. NAMESPACE is a name or an id.
    """


@retention.command(epilog=example("retention show team", "retention show team --json"))
@click.argument("namespace")
@session_command
async def show(session: Session, *, namespace: str) -> None:
    """Show the rules of a namespace."""
    found = await session.api.namespace(namespace)
    _show_rules(session, await session.api.ask(get_retention, namespace_id=found.id_))


@retention.command(
    "set",
    epilog=example(
        "retention set team --keep-last 10 --older-than-days 30",
        "retention set team --tag 'ci-*' --not-pulled-for-days 14",
        "retention show team --json >rules.json; holdfast retention set team --file rules.json",
        "retention set team --none",
    ),
)
@click.argument("namespace")
@click.option(
    "--image", "images", multiple=True, metavar="PATTERN", help="Images of the rule, repeatable."
)
@click.option(
    "--tag", "tags", multiple=True, metavar="PATTERN", help="Tags of the rule, repeatable."
)
@click.option("--keep-last", type=int, metavar="N", help="Keep the newest N matching tags.")
@click.option(
    "--older-than-days", type=int, metavar="N", help="Days since the last push of the tag."
)
@click.option(
    "--not-pulled-for-days", type=int, metavar="N", help="Days since its last pull or push."
)
@click.option(
    "--untagged-older-than-days",
    type=int,
    metavar="N",
    help="Days since the push of an untagged manifest.",
)
@click.option(
    "--file", type=click.File("rb"), help="File of rules as show --json prints them; - is stdin."
)
@click.option("--none", "no_rules", is_flag=True, help="Remove all rules.")
@session_command
async def set_(
    session: Session,
    *,
    namespace: str,
    images: tuple[str, ...],
    tags: tuple[str, ...],
    keep_last: int | None,
    older_than_days: int | None,
    not_pulled_for_days: int | None,
    untagged_older_than_days: int | None,
    file: BinaryIO | None,
    no_rules: bool,
) -> None:
    """Replace the rules: with one rule from options, with those of a file, or with none."""
    given = {
        "images": list(images) or None,
        "tags": list(tags) or None,
        "keep_last": keep_last,
        "older_than_days": older_than_days,
        "not_pulled_for_days": not_pulled_for_days,
        "untagged_older_than_days": untagged_older_than_days,
    }
    rule = {name: value for name, value in given.items() if value is not None}
    if bool(rule) + (file is not None) + no_rules != 1:
        raise click.UsageError("give one of these: options of a rule, --file, --none")
    rules = [rule] if rule else []
    body = {"rules": rules} if file is None else _read_rules(file)
    found = await session.api.namespace(namespace)
    _show_rules(session, await session.api.ask(update_retention, namespace_id=found.id_, **body))


def _read_rules(file: BinaryIO) -> dict[str, object]:
    """Read a rules file into the body of the operation. Raises UsageError."""
    text = file.read(FILE_BYTES_MAX + 1)
    if len(text) > FILE_BYTES_MAX:
        raise click.UsageError(f"--file: must not exceed {FILE_BYTES_MAX} bytes")
    try:
        rules = msgspec.json.decode(text, type=Rules)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--file: {error}") from error
    return {"rules": msgspec.to_builtins(rules.rules)}


@retention.command(epilog=example("retention plan team", "retention plan team --json"))
@click.argument("namespace")
@session_command
async def plan(session: Session, *, namespace: str) -> None:
    """List the items that the rules would remove now and the bytes freed: a dry run."""
    found = await session.api.namespace(namespace)
    _show_plan(session, await session.api.ask(plan_retention, namespace_id=found.id_), "would free")


@retention.command(epilog=example("retention apply team --yes"))
@click.argument("namespace")
@yes_option
@session_command
async def apply(session: Session, *, namespace: str, yes: bool) -> None:
    """Apply the rules now.

    You can restore removed tags for a while: see holdfast undelete.
    """
    found = await session.api.namespace(namespace)
    if not yes:
        planned = await session.api.ask(plan_retention, namespace_id=found.id_)
        summary = f"{len(planned.expired)} tags and manifests, {size(planned.freed_bytes)}"
        confirm(f"Apply the rules of namespace {found.name} ({summary})?", yes=yes)
    _show_plan(session, await session.api.ask(apply_retention, namespace_id=found.id_), "will free")


def _show_rules(session: Session, answer: RulesAnswer) -> None:
    if session.as_json:
        print_json(answer)
    else:
        print_rows(answer.rules, _RULES)


def _show_plan(session: Session, answer: PlanAnswer, verb: str) -> None:
    if session.as_json:
        print_json(answer)
        return
    print_rows(answer.expired, _EXPIRED)
    print_fields(answer, {verb: lambda item: size(item.freed_bytes)})
    if not answer.complete:
        click.echo("there is more to remove: run it again", err=True)
