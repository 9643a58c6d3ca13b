"""Grammars of names: what passes, what does not, and where each bound lies."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.engine import raised

from holdfast.engine.model import names
from holdfast.engine.model.errors import Invalid
from holdfast.engine.model.patterns import STATES_MAX, Patterns

Check = Callable[[str], object]

ACCEPTED: list[tuple[Check, str]] = [
    (names.check_namespace_name, "ab"),
    (names.check_namespace_name, "0a"),
    (names.check_namespace_name, "a--b"),
    (names.check_namespace_name, "a" * 63),
    (names.check_image_name, "app"),
    (names.check_image_name, "a"),
    (names.check_image_name, "team/app/blobs/uploads"),
    (names.check_image_name, "a.b_c__d-e---f"),
    (names.check_image_name, "0/1"),
    (names.check_image_name, "a" * 252),
    (names.check_tag_name, "latest"),
    (names.check_tag_name, "_"),
    (names.check_tag_name, "V1.2.3-rc_1"),
    (names.check_tag_name, "sha256-" + "0" * 64),
    (names.check_tag_name, "a" * 128),
    (names.check_region, "fr-par"),
    (names.check_region, "nl-ams"),
    (names.check_region, "xx-yyyyyyy"),
    (names.check_root_name, "default"),
    (names.check_root_name, "Fotos von Zoë, 2024/05"),
    (names.check_root_name, "r" * 128),
    (names.check_root_name, "é" * 100),
]

REFUSED: list[tuple[Check, str, str]] = [
    *(
        (names.check_namespace_name, "name", text)
        for text in (
            "", "a", "a" * 64, "-ab", "ab-", "Ab", "a_b", "a.b", "a/b", "ab\n", "äb", "a b",
            "\u0661\u0662", "ab\x00",
        )
    ),
    *(
        (names.check_image_name, "name", text)
        for text in (
            "", "/", "/a", "a/", "a//b", "a/../b", "..", ".a", "a.", "a..b", "a___b", "a_-b",
            "-a", "a-", "A", "a b", "a\n", "a%2Fb", "a:b", "a@b", "é", "\u0661", "a" * 253,
        )
    ),
    *(
        (names.check_tag_name, "tag", text)
        for text in (
            "", ".a", "-a", "a:b", "a/b", "a b", "a\n", "a+b", "é", "\u0661", "a" * 129,
            "sha256:" + "0" * 64,
        )
    ),
    *(
        (names.check_region, "region", text)
        for text in ("", "fr", "fr-", "fr-pa", "FR-PAR", "fr-par\n", "fra-par", "fr-paaaaaaar")
    ),
    *(
        (names.check_root_name, "root", text)
        for text in ("", "a\n", "a\x00", "\ud800", "a" * 129, "é" * 101, "\u200b", "tab\t")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("check", "text"), ACCEPTED)
def test_accepts(check: Check, text: str) -> None:
    assert check(text) == text


@pytest.mark.parametrize(("check", "argument", "text"), REFUSED)
def test_refuses(check: Check, argument: str, text: str) -> None:
    with pytest.raises(Invalid) as caught:
        check(text)
    assert caught.value.argument == argument
    assert caught.value.reason


@pytest.mark.parametrize(
    ("full", "parts"),
    [
        ("ab/c", ("ab", "c")),
        ("team/app", ("team", "app")),
        ("team/app/manifests/x", ("team", "app/manifests/x")),
        ("ab/" + "c" * 252, ("ab", "c" * 252)),
    ],
)
def test_splits_a_full_name_at_its_first_slash(full: str, parts: tuple[str, str]) -> None:
    assert names.split_full_name(full) == parts


@pytest.mark.parametrize(
    "full", ["", "/", "ab/", "/app", "a/app", "Ab/app", "a.b/app", "ab//c", "abc/" + "c" * 252]
)
def test_refuses_a_bad_full_name(full: str) -> None:
    with raised(Invalid, argument="name"):
        names.split_full_name(full)


@pytest.mark.parametrize("given", [None, 5, b"default", ["default"]])
def test_what_is_no_text_is_no_name(given: Any) -> None:
    checks: list[tuple[Check, str]] = [
        (names.check_namespace_name, "name"),
        (names.check_image_name, "name"),
        (names.split_full_name, "name"),
        (names.check_tag_name, "tag"),
        (names.check_region, "region"),
        (names.check_root_name, "root"),
    ]
    for check, argument in checks:
        with pytest.raises(Invalid, match="must be text, not") as wrong:
            check(given)
        assert wrong.value.argument == argument


def test_names_of_one_component_say_what_is_needed() -> None:
    with pytest.raises(Invalid, match="namespace/image is needed"):
        names.split_full_name("app")


def test_long_hostile_names_are_refused() -> None:
    for text in ("a-" * 200_000, "a/" * 200_000, "a_" * 126 + "!", "-" * 252):
        with pytest.raises(Invalid):
            names.check_image_name(text)


@pytest.mark.parametrize(
    "patterns", [(), ("*",), ("v*", "release-?", "v1.*.*"), ("**??**",), ("x",) * 32, ("*" * 128,)]
)
def test_accepts_patterns_in_their_order(patterns: tuple[str, ...]) -> None:
    assert names.check_patterns(list(patterns)) == patterns


@pytest.mark.parametrize(
    "patterns", [("",), ("a" * 129,), ("[ab]",), ("a b",), ("a\n",), ("é",), ("x",) * 33, "v*"]
)
def test_refuses_patterns(patterns: tuple[str, ...] | str) -> None:
    with raised(Invalid, argument="immutable_tags"):
        names.check_patterns(patterns)


@pytest.mark.parametrize(
    ("tag", "match"),
    [
        ("v1.2.3", "v?.*"),
        ("v10.2", "v*"),
        ("stable", "stable"),
        ("stable2", None),
        ("unstable", None),
        ("V1.2", None),
        ("v", "v*"),
        ("x.y", None),
    ],
)
def test_first_match(tag: str, match: str | None) -> None:
    assert names.first_match(("v?.*", "v*", "stable"), tag) == match


@given(
    pattern=st.text(alphabet="ab.*?", min_size=1, max_size=12),
    tag=st.text(alphabet="ab.", min_size=1, max_size=16),
)
def test_matches_as_the_shell_does(pattern: str, tag: str) -> None:
    found = names.first_match((pattern,), tag)
    assert (found is not None) == fnmatch.fnmatchcase(tag, pattern)


def test_hostile_patterns_end() -> None:
    patterns = names.check_patterns(("*a" * 64, "a*" * 63 + "b", "*a?" * 42 + "b", "*" * 127 + "b"))
    assert names.first_match(patterns, "a" * 127 + "c") is None


@given(
    patterns=st.lists(st.text(alphabet="ab.*?", max_size=12), max_size=5),
    tags=st.lists(st.text(alphabet="ab.", max_size=16), min_size=1, max_size=8),
    room=st.sampled_from((0, 1, 3, STATES_MAX)),
)
def test_many_patterns_match_as_each_by_itself(
    patterns: list[str], tags: list[str], room: int
) -> None:
    """The first one that covers a name, however many of the steps are kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("holdfast.engine.model.patterns.STATES_MAX", room)
        found = Patterns(patterns)
        for tag in tags:
            alone = (pattern for pattern in patterns if fnmatch.fnmatchcase(tag, pattern))
            assert found.first(tag) == next(alone, None)


def test_a_name_costs_no_more_than_its_length_times_that_of_the_patterns() -> None:
    """As seen in use: 32 patterns of many stars over 10,000 names took eight seconds."""
    begun = time.process_time()
    assert Patterns(["*" * 1000 + "b"]).first("a" * 1000) is None
    assert Patterns(["*a" * 1000 + "b", "*a" * 1000]).first("a" * 1000) == "*a" * 1000
    patterns = names.check_patterns("*a" * 62 + f"*{number:02}x" for number in range(32))
    for number in range(10_000):
        assert names.first_match(patterns, "a" * 100 + str(number)) is None
    # Names that share nothing take no more steps than there are places.
    for number in range(1_000):
        assert names.first_match(patterns, format(number**12, "0128b")) is None
    assert time.process_time() - begun < 3
    assert len(Patterns(patterns)._states) <= STATES_MAX
