"""Code blocks of the documentation: found, run, and checked where they cannot be run.

A block is run, unless the line above it is `<!-- not run: REASON -->`. Large models and benchmarks are replaced by
small ones.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import runpy
import shlex
import string
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import kvpress_video as kv
from kvpress_video.cli import main

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^(?:<!-- not run: ([^\n]+) -->\n)?```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LARGE = {"Qwen/Qwen2.5-VL-7B-Instruct": str(kv.bundled_path()), "kvpress_video/data/bundled": str(kv.bundled_path())}
WORLD = "world:count=2,frames=8"
SMALL = {
    "video-mme:path=/data/Video-MME,frames=128": WORLD,
    "/data/MLVU": "MLVU",
    ":dtype=bfloat16": ":dtype=float32",
    "clips=16, clip_frames=32": "clips=2, clip_frames=8",
    "clips=4 clip_frames=16": "clips=2 clip_frames=8",
}
NOT_CHECKED = {"apt-get", "cd", "cp", "curl", "lm_eval", "pytest", "sqlite3", "torchrun", "transformers"}
"""Other programs that the documentation calls."""


@dataclass(frozen=True)
class Snippet:
    """A code block of a page.

    Attributes:
        page: path in the repository.
        line: of its first fence, from 1.
        language: after the fence.
        code: its lines.
        reason: why it is not run, None if it is.
    """

    page: str
    line: int
    language: str
    code: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def snippets(page: Path) -> list[Snippet]:
    """Return the code blocks of a page, in order."""
    text, name = page.read_text(), str(page.relative_to(ROOT))
    return [
        Snippet(name, text.count("\n", 0, found.start(2)) + 1, found[2], found[3], found[1])
        for found in BLOCK.finditer(text)
    ]


def small(text: str) -> str:
    """Put the bundled model and small benchmarks in the place of large ones."""
    by = LARGE | SMALL
    return re.sub("|".join(map(re.escape, by)), lambda found: by[found[0]], text)


def run_python(text: str, names: dict[str, Any], page: str) -> str:
    """Run a block of Python and return what it prints."""
    said = StringIO()
    with redirect_stdout(said):
        exec(compile(text, page, "exec", dont_inherit=True), names)
    return said.getvalue()


def commands(code: str) -> Iterator[list[str]]:
    """Yield the words of each command of a block of bash, with its variables filled in."""
    variables: dict[str, str] = {}
    waiting = ""
    for line in code.replace("\\\n", " ").splitlines():
        waiting += string.Template(line).safe_substitute(variables) + "\n"
        try:
            words = shlex.split(waiting, comments=True)
        except ValueError:  # a quotation that is still open
            continue
        waiting = ""
        assigned = re.fullmatch(r"(\w+)=(.*)", words[0], re.DOTALL) if words else None
        if assigned:
            variables[assigned[1]] = assigned[2]
            continue
        while "&&" in words:
            yield words[: words.index("&&")]
            words = words[words.index("&&") + 1 :]
        if words:
            yield words


def run_command(words: list[str], folder: Path) -> str:
    """Run a command as the documentation gives it, on a CPU and with small clips; it has to succeed.

    Returns:
        What it prints, "" of a command that runs in this process.
    """
    program, *arguments = [small(word) for word in words]
    if program == "kvpress-video" and arguments[0] not in ("run", "lm-eval"):
        assert main([*arguments, *_quick(arguments, folder)]) == 0, words
        return ""
    here = {"kvpress-video": ["-m", "kvpress_video.cli"], "torchrun": ["-m", "torch.distributed.run"], "python": []}
    command = [sys.executable, *here[program], *arguments] if program in here else [program, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _quick(arguments: list[str], folder: Path) -> list[str]:
    """Options of a sweep that the command leaves out, so that it takes seconds."""
    if arguments[0] != "sweep":
        return []
    of_grid = not any(each.endswith(".yaml") for each in arguments)
    missing = {"--device": "cpu", "--workers": "1"}
    missing |= {"--benchmarks": WORLD, "--methods": "full,tar", "--budgets": "25%"} if of_grid else {}
    missing |= {} if "--out" in arguments or not (folder / "sweep").exists() else {"--out": "another"}
    return [word for name, value in missing.items() if name not in arguments for word in (name, value)]


def check_command(words: list[str]) -> None:
    """Check a command without running it: its program and options exist, and its arguments can be parsed."""
    match words:
        case ["kvpress-video", "run", *arguments] if "--" in arguments:
            split = arguments.index("--")
            _check_options("kvpress_video.cli", ["run", *arguments[:split]])
            check_command(arguments[split + 1 :])
        case ["kvpress-video", *arguments]:
            _check_options("kvpress_video.cli", arguments)
        case ["python", "-m", module, *arguments] if module.startswith("kvpress_video."):
            _check_options(module, arguments)
        case ["python", "-c", code]:
            check_python(code)
        case ["make", target, *_]:
            check_target(target)
        case ["pip", "install", *what]:
            for extra in re.findall(r"kvpress-video\[([\w,-]+)\]", " ".join(what)):
                assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text(), words
        case ["python", *_]:
            pass
        case _:
            assert words[0] in NOT_CHECKED, words


def check_target(target: str) -> None:
    """Check that the Makefile has a target."""
    assert re.search(rf"^{target}\b.*:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


class _ParsedError(BaseException):
    """The arguments of a command have been parsed."""


def _check_options(module: str, arguments: list[str]) -> None:
    from argparse import ArgumentParser

    parse, depth = ArgumentParser.parse_known_args, 0

    def stop(parser: ArgumentParser, *arguments: Any, **named: Any) -> Any:
        nonlocal depth
        depth += 1  # the parsers of commands are called by that of the program
        found = parse(parser, *arguments, **named)
        depth -= 1
        if depth:
            return found
        if found[1]:
            parser.error(f"unrecognized arguments: {found[1]}")
        raise _ParsedError

    with patch.object(ArgumentParser, "parse_known_args", stop), patch.object(sys, "argv", [module, *arguments]):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except _ParsedError:
            return
        except SystemExit as error:
            raise AssertionError(f"python -m {module} {shlex.join(arguments)}") from error
    raise AssertionError(f"{module} parses no arguments")


def check_python(code: str) -> None:
    """Check a block of Python without running it: it compiles, and uses names of kvpress_video as they are.

    Each name has to exist, and each call of one to fit its signature.
    """
    tree = ast.parse(code)
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                if each.name.startswith("kvpress_video"):
                    names[each.asname or each.name] = importlib.import_module(each.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kvpress_video"):
            module = importlib.import_module(node.module or "")
            names |= {each.asname or each.name: getattr(module, each.name) for each in node.names}
    for node in ast.walk(tree):
        found = _named(node, names)
        if isinstance(node, ast.Call) and (called := _named(node.func, names)) is not None:
            given = {each.arg: each for each in node.keywords if each.arg is not None}
            inspect.signature(called).bind(*node.args, **given)
        assert found is not _MISSING, ast.unparse(node)


_MISSING = object()


def _named(node: ast.AST, names: dict[str, Any]) -> Any:
    """Object behind a name: None if it does not belong to the package, `_MISSING` if it does not exist."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _named(node.value, names)
        return None if owner is None or owner is _MISSING else getattr(owner, node.attr, _MISSING)
    return None
