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

    small_seconds: float
    """One measurement of small requests (wrk takes whole seconds)."""

    loop_seconds: float
    """One measurement of pushes, pulls and mixes."""

    stream_bytes: int
    images: int
    """Images that one measurement may push at most."""

    known_images: int
    """Images that are pushed again."""

    zipf_images: int
    many_tags: int
    mixed_rate: float
    """Image operations a second in the open loop, outside bursts."""

    mixed_seconds: float
    """One measurement of the open loop."""

    engine_sizes: tuple[int, ...]
    huge_tags: int = 0
    """Tags of the list that only Holdfast gets; 0 leaves the row out."""

    processes: int = 2
    """Client processes."""


PROFILES: Final = {
    profile.name: profile
    for profile in (
        Profile(
            name="quick",
            rounds=1,
            budget=180,
            small_seconds=1,
            loop_seconds=0.7,
            stream_bytes=64 * MIB,
            images=300,
            known_images=40,
            zipf_images=15,
            many_tags=500,
            mixed_rate=30,
            mixed_seconds=3,
            engine_sizes=(100, 2000),
        ),
        Profile(
            name="default",
            rounds=3,
            budget=570,
            small_seconds=1,
            loop_seconds=1.5,
            stream_bytes=256 * MIB,
            images=2000,
            known_images=150,
            zipf_images=60,
            many_tags=10_000,
            mixed_rate=40,
            mixed_seconds=5,
            engine_sizes=(100, 10_000),
        ),
        Profile(
            name="long",
            rounds=7,
            budget=3600,
            small_seconds=3,
            loop_seconds=5,
            stream_bytes=256 * MIB,
            images=2000,
            known_images=1000,
            zipf_images=200,
            many_tags=10_000,
            mixed_rate=40,
            mixed_seconds=6,
            engine_sizes=(100, 10_000),
        ),
        Profile(
            name="huge",
            rounds=3,
            budget=4 * 3600,
            small_seconds=3,
            loop_seconds=5,
            stream_bytes=1024 * MIB,
            images=5000,
            known_images=1000,
            zipf_images=500,
            many_tags=10_000,
            mixed_rate=40,
            mixed_seconds=6,
            engine_sizes=(100, 10_000, 1_000_000),
            huge_tags=1_000_000,
        ),
    )
}
"""``huge`` has the rows of 10⁶, which are for Holdfast alone, and needs some 40 GB of disk."""
