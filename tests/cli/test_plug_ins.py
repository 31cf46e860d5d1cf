"""Commands of other packages: broken ones, and names that are taken."""

from __future__ import annotations

import argparse
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from kvpress_video.cli import main, plug_ins
from kvpress_video.cli.parsers import Commands


class Point(EntryPoint):
    """An entry point of a package, as importlib.metadata finds it."""

    dist = SimpleNamespace(name="kvp-mine")  # type: ignore[assignment]


def say(options: argparse.Namespace) -> int:
    print("mine")
    return 0


def add(commands: Commands) -> None:
    commands.add_parser("mine").set_defaults(run=say)


def take(commands: Commands) -> None:
    """Take the name of a command of ours."""
    commands._name_parser_map["methods"] = commands.add_parser("mine")  # type: ignore[attr-defined]
    commands._name_parser_map["methods"].set_defaults(run=say)  # type: ignore[attr-defined]


def end(commands: Commands) -> None:
    raise SystemExit("no licence")


def install(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setattr(plug_ins, "entry_points", lambda group: [Point(name, value, group)])


def test_a_package_adds_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Point, "load", lambda self: SimpleNamespace(add=add))
    install(monkeypatch, "mine", "mine")
    assert main(["mine"]) == 0
    assert capsys.readouterr().out == "mine\n"


@pytest.mark.parametrize("broken", ["not_there_at_all", "json:nothing", "not a reference", "end"])
def test_a_broken_command_is_an_error_that_names_its_package_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    if broken == "end":
        monkeypatch.setattr(Point, "load", lambda self: SimpleNamespace(add=end))
    install(monkeypatch, "mine", broken)
    assert main(["mine", "--any", "thing"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"kvpress-video: The command 'mine' of package kvp-mine ({broken}) cannot be loaded: ")
    assert main(["methods"]) == 0


def test_a_name_that_is_taken_stays_ours(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Point, "load", lambda self: SimpleNamespace(add=take))
    install(monkeypatch, "methods", "mine")
    assert main(["methods"]) == 0
    out, said = capsys.readouterr()
    assert "snapkv" in out
    assert "package kvp-mine declares the command 'methods', which already exists" in said
    install(monkeypatch, "mine", "mine")
    assert main(["methods"]) == 0
    assert "snapkv" in capsys.readouterr().out
