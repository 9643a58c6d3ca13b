"""Server, key and defaults from the environment variables and profile file of Scaleway's clients.

A variable overrides the profile file; an empty variable counts as unset. The file is YAML: values
at its top level, and named ``profiles`` that override them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import Failure, Misused

FILE_BYTES_MAX: Final = 1024 * 1024
"""Largest profile file in bytes; a real one has some hundred, so this only stops mistakes."""

VARIABLES: Final[Mapping[str, str]] = {
    "api_url": "SCW_API_URL",
    "secret_key": "SCW_SECRET_KEY",  # nosec B105 # a variable's name
    "default_project_id": "SCW_DEFAULT_PROJECT_ID",
    "default_region": "SCW_DEFAULT_REGION",
}
"""Profile setting to the environment variable that overrides it."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Settings from variables and profile file. Never print the values: they hold the secret."""

    values: Mapping[str, str]
    sources: Mapping[str, str]
    """Setting to the source of its value, for messages."""

    def get(self, name: str) -> str | None:
        """Return the value of a setting, or None."""
        return self.values.get(name)

    def __repr__(self) -> str:
        return f"Profile({', '.join(self.values)})"


def read_profile(environment: Mapping[str, str], name: str | None = None) -> Profile:
    """Return the settings in force; ``name`` is the profile given as an option.

    Raises Failure if the file is not valid or has no such profile.
    """
    values: dict[str, str] = {}
    sources: dict[str, str] = {}
    path = _path(environment)
    for setting, kept in _from_file(path, environment, name).items():
        values[setting] = kept
        sources[setting] = f"{setting} in {path}"
    for setting, variable in VARIABLES.items():
        if given := environment.get(variable):
            values[setting] = given
            sources[setting] = variable
    return Profile(values, sources)


def _path(environment: Mapping[str, str]) -> Path:
    if path := environment.get("SCW_CONFIG_PATH"):
        return Path(path)
    base = environment.get("XDG_CONFIG_HOME")
    home = environment.get("HOME")
    directory = Path(base) if base else Path(home or "~").expanduser() / ".config"
    return directory / "scw" / "config.yaml"


def _from_file(path: Path, environment: Mapping[str, str], name: str | None) -> dict[str, str]:
    name = name or environment.get("SCW_PROFILE") or None
    content = _read(path)
    if content is None:
        if name is not None or environment.get("SCW_CONFIG_PATH"):
            raise Misused(f"{path}: profile file does not exist")
        return {}
    document = _parse(path, content)
    name = name or _text(path, document, "active_profile")
    chosen = {setting: _text(path, document, setting) for setting in VARIABLES}
    if name not in (None, "default"):
        profiles = document.get("profiles")
        profile = profiles.get(name) if isinstance(profiles, dict) else None
        if not isinstance(profile, dict):
            raise Misused(f"{path}: has no profile {name}")
        for setting in VARIABLES:
            chosen[setting] = _text(path, profile, setting) or chosen[setting]
    return {setting: value for setting, value in chosen.items() if value}


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise Misused(f"{path}: must not exceed {FILE_BYTES_MAX} bytes")
    return content


def _parse(path: Path, content: bytes) -> dict[object, object]:
    import yaml

    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError):
        # The error would quote lines of the file, and they hold the secret.
        raise Misused(f"{path}: is not valid YAML") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise Misused(f"{path}: is not a profile file")
    return document


def _text(path: Path, table: Mapping[object, object], name: str) -> str | None:
    value = table.get(name)
    if value is not None and not isinstance(value, str):
        raise Misused(f"{path}: {name} must be a string")
    return value
