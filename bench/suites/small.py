"""Workloads of small requests: manifests, HEADs, misses, lists of tags, tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from holdfast.bench.load.content import MANIFEST_TYPE, digest_of
from holdfast.bench.load.jobs import Ask, ImageSet, ListTags, PushImages
from holdfast.bench.load.profile import Profile
from holdfast.bench.load.registry import Style
from holdfast.bench.load.tagging import PushTags, tag
from holdfast.bench.report.results import Limit, Sample
from holdfast.bench.targets.targets import Target

from .background import set_tags
from .measure import Bench, MeasureFailed, operations, sample_of
from .pulls import lay, lay_image
from .workload import Workload, ours, ours_or_files

IMAGES = 30
"""Images whose manifests and blobs are asked for, in turn."""

FEW_TAGS = 10
PAGE = 100
LIST_CLIENTS = 4

MANIFEST_ROW = "small/manifest/get/tag"
"""Where nginx has a row, which other small requests are given as a share of."""

_NGINX = Limit("nginx")
_SET = ImageSet("small", IMAGES, layers=3, scale=0.001, cap=16 << 10)

Asker = Callable[[Bench, Target], tuple[Ask, ...]]


def workloads(profile: Profile) -> list[Workload]:
    """All of them."""
    manifests: list[tuple[str, str, Asker]] = [
        ("manifest/get/tag", "GET of a manifest by tag", partial(_manifests, "GET", False)),
        ("manifest/get/digest", "GET of a manifest by digest", partial(_manifests, "GET", True)),
        ("manifest/head/tag", "HEAD of a manifest by tag", partial(_manifests, "HEAD", False)),
        ("manifest/head/digest", "HEAD of a manifest by digest", partial(_manifests, "HEAD", True)),
        ("blob/head/hit", "HEAD of a blob that is there", _blob_hits),
        ("blob/head/miss", "HEAD of a blob that is not there", partial(_blob_misses, "HEAD")),
        ("blob/get/miss", "GET of a blob that is not there", partial(_blob_misses, "GET")),
        ("manifest/miss", "GET of a manifest that is not there: a storm of 404", _manifest_misses),
    ]
    made = [
        _row(
            name=f"small/{name}",
            title=title,
            prepare=_put,
            measure=partial(_small, "small", asks),
            files=True,
        )
        for name, title, asks in manifests
    ]
    made += [_page(count) for count in (FEW_TAGS, profile.many_tags)]
    if profile.huge_tags:
        made.append(_page(profile.huge_tags, needs=ours))
    made.append(
        _row(
            name="small/tags/all",
            title=f"whole list of {profile.many_tags:,} tags, in pages of 1,000",
            unit="lists/s",
            limit=Limit(f"nginx:small/tags/{profile.many_tags}", "requests"),
            prepare=partial(_put_tags, profile.many_tags),
            measure=partial(_whole_list, profile.many_tags),
        )
    )
    made.append(
        _row(
            name="small/token",
            title="issue of a token",
            limit=Limit(f"nginx:{MANIFEST_ROW}"),
            measure=_tokens,
            needs=lambda target: bool(target.login.password),
        )
    )
    return made


def variants() -> list[Workload]:
    """What other options of Holdfast cost on a small request."""
    asks = partial(_manifests, "GET", False)
    return [
        _row(
            name="options/log",
            title="GET of a manifest by tag, without and with an access log",
            group="options of Holdfast",
            prepare=_put,
            measure=partial(_small, "small", asks),
            variants=("log",),
            needs=ours_or_files,
            files=True,
        ),
        _row(
            name="options/workers/small",
            title="GET of a manifest by tag: CPU, with one worker and with two",
            group="options of Holdfast",
            unit="µs CPU/request",
            higher=False,
            prepare=_put,
            measure=partial(_small_cpu, asks),
            variants=("two",),
            needs=ours_or_files,
            files=True,
        ),
    ]


_row: Final = partial(Workload, group="small requests", unit="requests/s", limit=_NGINX)


def _page(count: int, *, needs: Callable[[Target], bool] = lambda _: True) -> Workload:
    return _row(
        name=f"small/tags/{count}",
        title=f"first {PAGE} of a list of {count:,} tags"
        if count > PAGE
        else f"list of {count} tags",
        limit=_NGINX if needs is not ours else Limit(f"nginx:{MANIFEST_ROW}"),
        prepare=partial(_put_tags, count),
        measure=partial(_small, _tags_repository(count), partial(_tag_page, count)),
        files=needs is not ours,
        needs=needs,
    )


def _put(bench: Bench, target: Target) -> None:
    reach = target.reach("small")
    if target.files is None:
        bench.set_up(target, reach, PushImages(_SET, Style.WHOLE))
        return
    for number in range(_SET.count):
        image = _SET.image(bench.content, number)
        lay_image(target.files, reach.repository, image, _SET.tag(number))


def _small(repository: str, asker: Asker, bench: Bench, target: Target, turn: int) -> Sample:
    return bench.small(target, target.reach(repository), asker(bench, target))


def _manifests(method: str, by_digest: bool, bench: Bench, target: Target) -> tuple[Ask, ...]:
    base = f"/v2/{target.prefixes[0]}/small/manifests"
    asks = []
    for number in range(IMAGES):
        image = _SET.image(bench.content, number)
        name = image.digest if by_digest else _SET.tag(number)
        asks.append(Ask(method, f"{base}/{name}", 200, MANIFEST_TYPE, image.digest))
    return tuple(asks)


def _blob_hits(bench: Bench, target: Target) -> tuple[Ask, ...]:
    base = f"/v2/{target.prefixes[0]}/small/blobs"
    images = (_SET.image(bench.content, number) for number in range(IMAGES))
    return tuple(Ask("HEAD", f"{base}/{image.layers[0].digest}", 200) for image in images)


def _blob_misses(method: str, bench: Bench, target: Target) -> tuple[Ask, ...]:
    base = f"/v2/{target.prefixes[0]}/small/blobs"
    digests = (digest_of(f"{bench.seed}/absent/{number}".encode()) for number in range(IMAGES))
    return tuple(Ask(method, f"{base}/{digest}", 404) for digest in digests)


def _manifest_misses(bench: Bench, target: Target) -> tuple[Ask, ...]:
    base = f"/v2/{target.prefixes[0]}/small/manifests"
    return tuple(
        Ask("GET", f"{base}/absent-{number}", 404, MANIFEST_TYPE) for number in range(IMAGES)
    )


def _tags_repository(count: int) -> str:
    return f"tags{count}"


def _small_cpu(asker: Asker, bench: Bench, target: Target, turn: int) -> Sample:
    """The server's CPU for each request, in microseconds, is the value."""
    sample = bench.small(target, target.reach("small"), asker(bench, target))
    if sample.server_cpu is None:
        raise MeasureFailed("its process cannot be looked at")
    sample.value = sample.server_cpu / sample.requests * 1e6
    return sample


def _put_tags(count: int, bench: Bench, target: Target) -> None:
    reach = target.reach(_tags_repository(count))
    if target.files is not None:
        names = [tag(number) for number in range(min(count, PAGE))]
        answer = msgspec.json.encode({"name": reach.repository, "tags": names})
        lay(target.files, reach.repository, "tags/list", answer)
        return
    beside = target.data is not None and count == bench.profile.huge_tags
    bench.set_up(target, reach, PushTags(1 if beside else count), clients=16)
    if beside and target.data is not None:
        set_tags(target.data, reach.repository, count)


def _tag_page(count: int, bench: Bench, target: Target) -> tuple[Ask, ...]:
    repository = f"{target.prefixes[0]}/{_tags_repository(count)}"
    return (Ask("GET", f"/v2/{repository}/tags/list?n={PAGE}", 200),)


def _whole_list(count: int, bench: Bench, target: Target, turn: int) -> Sample:
    result, meter = bench.job(
        target,
        target.reach(_tags_repository(count)),
        ListTags(count),
        clients=LIST_CLIENTS,
        seconds=bench.profile.loop_seconds,
    )
    return sample_of(result, meter, operations(result))


def _tokens(bench: Bench, target: Target, turn: int) -> Sample:
    reach = target.reach("small")
    if not reach.token_target:
        raise MeasureFailed("its token service is another server")
    ask = Ask("GET", reach.token_target, 200, header=_login(target))
    return bench.small(target, reach.anonymous(), (ask,))


def _login(target: Target) -> str:
    return f"Authorization: {target.login.basic()}\r\n"
