"""Each option of ``serve`` follows from its field: names, types, bounds, reload, documentation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from support.pages import PAGES, block

from holdfast.api import AppSettings
from holdfast.api.cli.commands.serve import serve
from holdfast.api.cli.config_file import read
from holdfast.api.cli.options import data_option
from holdfast.api.server import settings
from holdfast.api.server.option import Option
from holdfast.api.server.settings import OPTIONS, BadSetting, Settings
from holdfast.engine import MANIFEST_BYTES_MAX, StoreConfig

EVERY = pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
BOUNDED = [option for option in OPTIONS.values() if option.within]

FILE_VALUES: dict[str, tuple[object, object]] = {
    "text": ("a", 1),
    "texts": (["a"], [1]),
    "choice": ("a", True),
    "flag": (True, "true"),
    "whole": (1, 1.0),
    "number": (1.5, True),
    "size": ("10GiB", 1.0),
}
"""A value that the file may have for a kind, and one of another type."""

TYPES = {"flag": "bool", "whole": "int", "number": "float", "size": "int"}
"""Annotation of a setting by kind of its option; strings become anything."""


def of_click(option: Option) -> click.Option:
    found = [each for each in serve.params if each.name == option.name]
    assert len(found) == 1
    assert isinstance(found[0], click.Option)
    return found[0]


def file_of(path: Path, key: str, value: object) -> Path:
    file = path / "holdfast.toml"
    file.write_text(f"{key} = {json.dumps(value)}\n")
    return file


@EVERY
def test_it_has_its_names_on_the_command_line_and_in_the_environment(option: Option) -> None:
    shown = of_click(option)
    assert shown.opts == [f"--{option.key}"]
    assert shown.secondary_opts == ([f"--no-{option.key}"] if option.kind == "flag" else [])
    assert shown.envvar == "HOLDFAST_" + option.key.upper().replace("-", "_")
    assert option.help in (shown.help or "")


def test_the_command_has_no_other_option() -> None:
    assert {each.opts[0] for each in serve.params} == {"--config", *map("--{}".format, OPTIONS)}


@EVERY
def test_the_file_may_set_it_to_a_value_of_its_type(option: Option, tmp_path: Path) -> None:
    right, wrong = FILE_VALUES[option.kind]
    assert read(file_of(tmp_path, option.key, right)) == {option.name: right}
    with pytest.raises(click.UsageError, match=rf": {option.key} must be "):
        read(file_of(tmp_path, option.key, wrong))


@EVERY
def test_the_page_has_it_and_says_what_a_reload_does(option: Option) -> None:
    lines = block((PAGES / "configuration.md").read_text("utf-8"), "options").splitlines()
    (row,) = [line for line in lines if line.startswith(f"| `{option.key}` |")]
    # The certificates are there so that a change of one is not a switch to TLS.
    old = replace(Settings.parse(), tls_cert=Path("old"), tls_key=Path("old"))
    change: dict[str, Any] = {option.name: "another"}
    new = replace(old, **change)
    if option.fixed:
        assert "| restart |" in row
        assert old.reloaded(new) == (old, [option.key])
    else:
        assert "| reload |" in row
        assert old.reloaded(new) == (new, [])


def test_a_reload_does_not_turn_tls_on_or_off() -> None:
    plain = Settings.parse()
    tls = replace(plain, tls_cert=Path("cert"), tls_key=Path("key"), token_seconds=60)
    assert plain.reloaded(tls) == (replace(plain, token_seconds=60), ["tls-cert", "tls-key"])
    assert tls.reloaded(plain) == (replace(tls, token_seconds=300), ["tls-cert", "tls-key"])


@pytest.mark.parametrize("option", BOUNDED, ids=lambda each: each.key)
def test_a_number_is_held_to_its_bounds(option: Option) -> None:
    assert option.within is not None
    least, most = option.within
    for value in (least, most):
        found: Any = getattr(Settings.parse(**{option.name: value}), option.name)
        assert found == (value if option.unless_local is None else (value, False))
    off = (0,) if option.off else ()
    for value in {0, least - 1, most + 1, float("nan")} - {least, *off}:
        with pytest.raises(BadSetting) as caught:
            Settings.parse(**{option.name: value})
        assert caught.value.option == f"--{option.key}"
        assert caught.value.reason == f"must be {least:g} to {most:g}"
    for value in off:
        assert getattr(Settings.parse(**{option.name: value}), option.name) == 0


def test_every_number_has_bounds() -> None:
    kinds = {"whole", "number", "size"}
    assert [option for option in OPTIONS.values() if option.kind in kinds] == BOUNDED


def test_a_value_that_is_no_choice_is_refused() -> None:
    with pytest.raises(BadSetting, match="--log-level: must be one of debug, info, warning, error"):
        Settings.parse(log_level="all")


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(TypeError, match="colour"):
        Settings.parse(colour="red")


@EVERY
def test_its_kind_makes_the_type_of_the_setting(option: Option) -> None:
    kind = TYPES.get(option.kind)
    if kind is not None:
        limit = f"ClientLimit[{kind}]"
        expected = kind if option.unless_local is None else limit
        assert Settings.__annotations__[option.name] == expected
    assert bool(option.choices) == (option.kind == "choice")
    assert not option.choices or option.default in option.choices


def test_defaults_are_those_of_the_command_the_engine_and_the_application() -> None:
    given = serve.make_context("serve", []).params
    parsed = Settings.parse()
    assert Settings.parse(**given) == parsed
    assert parsed.for_store(background=True) == StoreConfig()
    assert parsed.for_app(None, {}) == AppSettings()
    assert settings.MANIFEST_BYTES_MAX == MANIFEST_BYTES_MAX


def test_other_commands_take_the_same_data_directory() -> None:
    @click.command
    @data_option
    def command(data: str) -> None: ...

    (other,) = command.params
    of_serve = of_click(OPTIONS["data"])
    assert isinstance(other, click.Option)
    for name in ("opts", "envvar", "default", "metavar"):
        assert getattr(other, name) == getattr(of_serve, name), name
