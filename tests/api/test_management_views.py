"""The forms of answers: times, and the fields that an answer takes from a value."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest

from holdfast.api.management.views import NewKeyAnswer, TagAnswer, convert, timestamp
from holdfast.engine import Digest, Key, Tag


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05.000000Z"),
        (datetime(2026, 1, 2, 3, 4, 5, 60, tzinfo=UTC), "2026-01-02T03:04:05.000060Z"),
        (
            datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2))),
            "2026-01-02T01:04:05.000000Z",
        ),
    ],
)
def test_times_are_utc_with_six_digits(value: datetime, text: str) -> None:
    assert timestamp(value) == text


WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ONE, TWO = UUID(int=1), UUID(int=2)


def test_an_answer_takes_the_fields_of_its_names() -> None:
    tag = Tag(ONE, TWO, "v1", "ready", Digest("sha256", bytes(32)), WHEN, WHEN)
    assert convert(tag, TagAnswer) == TagAnswer(
        id_=ONE,
        name="v1",
        image_id=TWO,
        status="ready",
        digest="sha256:" + "0" * 64,
        created_at="2026-01-02T03:04:05.000000Z",
        updated_at="2026-01-02T03:04:05.000000Z",
    )


def test_given_fields_win_and_others_must_exist() -> None:
    key = Key("SCW", None, ONE, TWO, "full", "for pulls", WHEN, None)
    answer = convert(key, NewKeyAnswer, secret_key="hush", description="other")
    assert (answer.secret_key, answer.description, answer.expires_at) == ("hush", "other", None)
    with pytest.raises(AttributeError, match="secret_key"):
        convert(key, NewKeyAnswer)
    with pytest.raises(TypeError, match="secret"):
        convert(key, NewKeyAnswer, secret_key="hush", secret="hush")
