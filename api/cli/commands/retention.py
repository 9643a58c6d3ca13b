"""``holdfast retention``: show and set the rules of a namespace, a dry run, and applying them."""

from __future__ import annotations

from typing import BinaryIO, Final

import click
import msgspec

from holdfast.api.cli.options import confirm, example, yes_option
from holdfast.api.cli.output import Table, print_fields, print_json, print_rows, size
from holdfast.api.cli.session import Session, managing
from holdfast.api.management.retention import Rules
from holdfast.api.management.views import PlanAnswer, RulesAnswer

FILE_BYTES_MAX: Final = 1 << 20
"""Of a file of rules; far above what the API takes."""

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
    """Retention rules: which tags and untagged manifests of a namespace go by themselves.

    A tag goes when a rule matches it and all that the rule looks at is so. Signatures and the like
    (tags sha256-..., with .sig, .att or .sbom) go with what they belong to. NAMESPACE is a name
    or an id.
    """


@retention.command(epilog=example("retention show team", "retention show team --json"))
@click.argument("namespace")
@managing
async def show(session: Session, *, namespace: str) -> None:
    """Show the rules."""
    found = await session.management.namespace(namespace)
    _show_rules(session, await session.management.retention(found.id_))


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
@click.option("--image", "images", multiple=True, metavar="PATTERN", help="Images; repeatable.")
@click.option("--tag", "tags", multiple=True, metavar="PATTERN", help="Tags; repeatable.")
@click.option("--keep-last", type=int, metavar="N", help="The newest N tags that match stay.")
@click.option("--older-than-days", type=int, metavar="N", help="Since the last push of the tag.")
@click.option("--not-pulled-for-days", type=int, metavar="N", help="Since its last pull or push.")
@click.option("--untagged-older-than-days", type=int, metavar="N", help="Manifests without a tag.")
@click.option("--file", type=click.File("rb"), help="Rules as show --json prints them; - is stdin.")
@click.option("--none", "no_rules", is_flag=True, help="Remove all rules.")
@managing
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
    """Replace the rules: by the one that the options make, by those of a file, or by none."""
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
        raise click.UsageError("one of these is needed: options of a rule, --file, --none")
    rules = [rule] if rule else []
    body = {"rules": rules} if file is None else _read_rules(file)
    found = await session.management.namespace(namespace)
    _show_rules(session, await session.management.update_retention(found.id_, body))


def _read_rules(file: BinaryIO) -> dict[str, object]:
    """The body of the operation. Raises UsageError."""
    text = file.read(FILE_BYTES_MAX + 1)
    if len(text) > FILE_BYTES_MAX:
        raise click.UsageError(f"--file: more than {FILE_BYTES_MAX} bytes")
    try:
        rules = msgspec.json.decode(text, type=Rules)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--file: {error}") from error
    return {"rules": msgspec.to_builtins(rules.rules)}


@retention.command(epilog=example("retention plan team", "retention plan team --json"))
@click.argument("namespace")
@managing
async def plan(session: Session, *, namespace: str) -> None:
    """List exactly what the rules would remove now, and what that would free: a dry run."""
    found = await session.management.namespace(namespace)
    _show_plan(session, await session.management.retention_plan(found.id_), "would free")


@retention.command(epilog=example("retention apply team --yes"))
@click.argument("namespace")
@yes_option
@managing
async def apply(session: Session, *, namespace: str, yes: bool) -> None:
    """Remove now what the rules say.

    Tags can be brought back for a while: see holdfast undelete.
    """
    found = await session.management.namespace(namespace)
    if not yes:
        planned = await session.management.retention_plan(found.id_)
        told = f"{len(planned.expired)} tags and manifests, {size(planned.freed_bytes)}"
        confirm(f"Remove from namespace {found.name} what its rules say ({told})?", yes=yes)
    _show_plan(session, await session.management.apply_retention(found.id_), "will free")


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
        click.echo("there is more, for the next run", err=True)
