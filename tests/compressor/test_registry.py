"""Names with settings, as people write them and as a grid spells them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from kvpress_video.compressor.base import Compressor
from kvpress_video.compressor.registry import METHODS, Registry, make_method, written
from kvpress_video.errors import UnknownNameError
from kvpress_video.utils.entry_points import EntryPoints
from kvpress_video.utils.named_settings import parse, spell, split_list


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("x", {}),
        ("x:a=1,b=.5,c=True,d=None,e=word", {"a": 1, "b": 0.5, "c": True, "d": None, "e": "word"}),
        ("x: a = 1 , b = two words ", {"a": 1, "b": "two words"}),
        ("x:a=[[1,2],[3,4]],b=(1, 2)", {"a": [[1, 2], [3, 4]], "b": (1, 2)}),
        ("x:a={'b': [1, 2]},c=3", {"a": {"b": [1, 2]}, "c": 3}),
        ("x:path=/data/a:b,c=d=e", {"path": "/data/a:b", "c": "d=e"}),
        ("x:a=:),b=1", {"a": ":)", "b": 1}),
        ("x:a={[]:1}", {"a": "{[]:1}"}),
    ],
)
def test_settings_are_read(text: str, settings: dict[str, Any]) -> None:
    assert parse(text) == ("x", settings)


@pytest.mark.parametrize(
    "value",
    [1, 0.25, True, None, "word", "two words", "123", "None", "True", "1e3", " a ", '"x"', [1, [2, 3]], (1, 2),
     {"a": [1]}, "/data/a:b", "a=b"],
)  # fmt: skip
def test_what_is_spelled_reads_back(value: Any) -> None:
    assert parse(spell("x", {"a": value, "b": 2})) == ("x", {"a": value, "b": 2})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ada", "ada"),
        ("ada:base=infinipot-v", "ada:base=infinipot-v"),
        ("ada:alpha=0.2,base=snapkv", "ada"),
        ("ada:alpha=0.5,base=snapkv:window=3", "ada:base=snapkv:window=3,alpha=0.5"),
        ("per-layer:shares=(2, 1)", "per-layer:shares=[2, 1]"),
    ],
)
def test_a_method_is_written_with_the_settings_that_were_changed(text: str, name: str) -> None:
    assert written(make_method(text)) == name


def test_a_method_that_is_not_registered_is_written_with_its_class_name() -> None:
    @dataclass(frozen=True)
    class Own(Compressor):
        share: float
        seed: int = 0

    assert written(Own(0.5)) == "Own:share=0.5"


def test_what_cannot_be_read() -> None:
    with pytest.raises(UnknownNameError, match="given twice"):
        parse("x:a=1,a=2")
    with pytest.raises(UnknownNameError, match="write name=value"):
        parse("x:a=1,b")


def test_settings_stay_with_their_member() -> None:
    text = "full, infinipot-v:tar_ratio=.5,pooling=True,snapkv,per-layer:shares=[1.5,0.5],random:seed=3"
    assert split_list(text) == [
        "full",
        "infinipot-v:tar_ratio=.5,pooling=True",
        "snapkv",
        "per-layer:shares=[1.5,0.5]",
        "random:seed=3",
    ]


@dataclass(frozen=True)
class Demanding(Compressor):
    count: int
    path: str | None = None
    limit: int | None = None
    names: list[str] = field(default_factory=list)

    presets: ClassVar[dict[str, dict[str, Any]]] = {"few": {"count": 1, "limit": 2}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("demanding", "demanding needs count"),
        ("demanding:count=1,limit=many", "takes int | None, got 'many'"),
        ("demanding:count=1,path=3", "takes str | None, got 3"),
        ("demanding:count=1.5", "takes int, got 1.5"),
        ("demanding:count=True", "takes int, got True"),
        ("demanding:cuont=1", "Did you mean 'count'"),
        ("demandin", "Did you mean 'demanding'"),
        ("demanding:many", "write name=value, or one of its presets: few"),
    ],
)
def test_what_cannot_be_made(monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    class Point:
        value = "here"

        def load(self) -> type:
            return Demanding

    monkeypatch.setattr("kvpress_video.utils.entry_points.installed", lambda group: {"demanding": Point()})
    plugins = Registry(EntryPoints("group", "method"), Compressor)
    assert plugins.make("demanding:count=1,limit=None") == Demanding(1)
    assert plugins.make("demanding:few,limit=3") == Demanding(1, limit=3)
    with pytest.raises(UnknownNameError, match=message.replace("|", r"\|")):
        plugins.make(text)


def test_a_suggestion_takes_the_place_of_the_list_of_all_methods() -> None:
    expected = r"^Unknown method 'tarr'\. Did you mean 'tar'\? See kvpress-video methods\.$"
    with pytest.raises(UnknownNameError, match=expected):
        METHODS.get("tarr")
    with pytest.raises(UnknownNameError, match=r"^Unknown method 'zzz'\. Known: ada, .*vidcom2\.$"):
        METHODS.get("zzz")
