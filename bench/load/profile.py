"""How much is done: the named sizes of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Profile:
    """Sizes are bytes, times are seconds."""

    name: str
    rounds: int
    budget: float
    """When this much time is gone, what is left is skipped (and the report says so)."""

    limit_seconds: float
    """One measurement of a limit of the machine."""

    setup_seconds: float
    """What bringing in the content of one row may take on one target."""

    small_seconds: float
    """One measurement of small requests (wrk takes whole seconds)."""

    loop_seconds: float
    """One measurement of pushes, pulls and mixes."""

    push_seconds: float
    """The longest that pushing ``images`` small images may take."""

    stream_bytes: int
    many_bytes: int
    """Each of 64 uploads at once."""

    images: int
    """Images that one measurement pushes at most."""

    known_images: int
    """Images that are pushed again."""

    zipf_images: int
    many_tags: int
    mixed_rate: float
    """Image operations a second in the open loop, outside bursts."""

    mixed_seconds: float
    """One measurement of the open loop."""

    upkeep_seconds: float
    """One measurement beside the sweep and the scrub, and one without."""

    upkeep_rounds: int
    scale_sizes: tuple[int, ...]
    """How many things are in the stores whose calls should cost the same."""

    scale_rounds: int
    scale_seconds: float
    """What filling and measuring them may take."""

    huge_tags: int = 0
    """Tags of the list that only Holdfast gets; 0 leaves the row out."""

    huge_many_bytes: int = 0
    """Each of 64 uploads at once that only Holdfast gets; 0 leaves the row out."""

    processes: int = 2
    """Client processes."""


PROFILES: Final = {
    profile.name: profile
    for profile in (
        Profile(
            name="quick",
            rounds=1,
            budget=180,
            limit_seconds=0.2,
            setup_seconds=10,
            small_seconds=1,
            loop_seconds=0.7,
            push_seconds=2,
            stream_bytes=64 * MIB,
            many_bytes=4 * MIB,
            images=500,
            known_images=40,
            zipf_images=15,
            many_tags=500,
            mixed_rate=30,
            mixed_seconds=3,
            upkeep_seconds=5,
            upkeep_rounds=1,
            scale_sizes=(100, 2000),
            scale_rounds=2,
            scale_seconds=60,
        ),
        Profile(
            name="default",
            rounds=3,
            budget=540,
            limit_seconds=0.5,
            setup_seconds=40,
            small_seconds=1,
            loop_seconds=1.2,
            push_seconds=6,
            stream_bytes=256 * MIB,
            many_bytes=8 * MIB,
            images=2000,
            known_images=400,
            zipf_images=60,
            many_tags=10_000,
            mixed_rate=40,
            mixed_seconds=5,
            upkeep_seconds=5,
            upkeep_rounds=2,
            scale_sizes=(100, 10_000),
            scale_rounds=3,
            scale_seconds=110,
        ),
        Profile(
            name="long",
            rounds=7,
            budget=5400,
            limit_seconds=1,
            setup_seconds=600,
            small_seconds=3,
            loop_seconds=5,
            push_seconds=60,
            stream_bytes=256 * MIB,
            many_bytes=64 * MIB,
            images=2000,
            known_images=1000,
            zipf_images=200,
            many_tags=10_000,
            mixed_rate=40,
            mixed_seconds=10,
            upkeep_seconds=10,
            upkeep_rounds=7,
            scale_sizes=(100, 10_000),
            scale_rounds=7,
            scale_seconds=600,
        ),
        Profile(
            name="huge",
            rounds=3,
            budget=6 * 3600,
            limit_seconds=1,
            setup_seconds=3600,
            small_seconds=3,
            loop_seconds=5,
            push_seconds=60,
            stream_bytes=1024 * MIB,
            many_bytes=64 * MIB,
            images=5000,
            known_images=1000,
            zipf_images=500,
            many_tags=10_000,
            mixed_rate=40,
            mixed_seconds=10,
            upkeep_seconds=10,
            upkeep_rounds=3,
            scale_sizes=(100, 10_000, 1_000_000),
            scale_rounds=5,
            scale_seconds=10800,
            huge_tags=1_000_000,
            huge_many_bytes=1024 * MIB,
        ),
    )
}
"""``huge`` has the rows of 10⁶ and the 64 uploads of 1 GiB, which are for Holdfast alone, and needs
some 110 GB of disk; with ``--only`` less."""
