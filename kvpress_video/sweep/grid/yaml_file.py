"""Read a grid from a YAML file, with errors that give line and column."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ...errors import SweepError
from ...utils.files import irregular_kind
from .flags import flag_line
from .spec import Grid, GridPath, Problem, check_grid, list_problems

MAX_BYTES = 2**17
"""Size of the largest grid that is read."""
MAX_VALUES = 10_000
"""Most values in a grid, those that aliases repeat included."""


def read_grid(path: str | Path, **flags: Any) -> Grid:
    """Read a grid from a YAML file whose keys are the parts that `make_grid` takes.

    Args:
        path: path of the file.
        **flags: parts that replace the file's, as `make_grid` takes them.

    Raises:
        SweepError: the file is missing, not YAML, too large (also through aliases or nesting), or the grid is invalid.
            All errors are listed, with file, line, column, key and value.
    """
    file = Path(path)
    document = _Document(_text(file), file)
    parts = {**document.parts, **flags}
    grid, problems = check_grid(parts)
    own = [problem for problem in document.problems if problem.path[0] not in flags]
    if found := {problem.path: problem for problem in [*problems, *own]}.values():
        lines = sorted(document.located(problem, flags) for problem in found)
        raise SweepError(list_problems([line for _, line in lines], str(file)))
    return grid


def _text(file: Path) -> str:
    try:
        if (kind := irregular_kind(file)) and not file.is_dir():
            raise SweepError(f"Cannot read the grid {file}: it is {kind}. Give the path of a YAML file.")
        if (size := file.stat().st_size) > MAX_BYTES:
            raise SweepError(f"{file} is too large for a grid: it has {size} bytes, and a grid at most {MAX_BYTES}.")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise SweepError(f"Cannot read the grid {file}: {reason}.") from error


class _Loader(yaml.SafeLoader):
    """A loader that reads `1e-3` as a number, as YAML 1.2 does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


class _Document:
    """The contents of a file as plain values.

    Attributes:
        parts: parts of the grid.
        problems: problems of the YAML itself.
    """

    def __init__(self, text: str, file: Path) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._nodes: dict[GridPath, Node] = {}
        self._read_as: dict[GridPath, tuple[str, Any]] = {}
        self._values = 0
        try:
            self._loader = _Loader(text)
            root = self._loader.get_single_node()
        except yaml.MarkedYAMLError as error:
            place = _place(error.problem_mark or error.context_mark)
            raise SweepError(f"{file}{place}: this is not YAML: {error.problem or error.context}.") from error
        except RecursionError as error:
            raise SweepError(f"{file} is nested too deeply for a grid.") from error
        except yaml.YAMLError as error:
            raise SweepError(f"{file}: this is not YAML: {' '.join(str(error).split())}.") from error
        if root is None:
            raise SweepError(f"{file} is empty: write at least methods and budgets.")
        if not isinstance(root, MappingNode):
            raise SweepError(
                f"{file}{_place(root.start_mark)}: a grid is a mapping, 'methods: [tar]', not a {root.id}."
            )
        self.parts: dict[str, Any] = self._plain(root, (), ())

    def located(self, problem: Problem, flags: dict[str, Any]) -> tuple[int, str]:
        """Return the line number of a problem, and its description with file and position."""
        if problem.path and problem.path[0] in flags:
            return 0, flag_line(problem, {})
        known = next(
            (path for end in range(len(problem.path), 0, -1) if (path := problem.path[:end]) in self._nodes), None
        )
        if known is None:
            return 0, f"{self._file}: {problem}"
        mark = self._nodes[known].start_mark
        raw, value = self._read_as.get(known, ("", ""))
        hint = f" (YAML reads {raw} as {value!r}; quote it to get a string.)" if raw else ""
        return mark.line, f"{self._file}{_place(mark)}: {problem}{hint}"

    def _plain(self, node: Node, path: GridPath, above: tuple[Node, ...]) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            raise SweepError(
                f"{self._file} is too large for a grid: with its aliases it has more than {MAX_VALUES} values."
            )
        if node in above:
            self._add(path, "This refers to itself.")
            return None
        if isinstance(node, SequenceNode):
            for place, item in enumerate(node.value):
                self._nodes[(*path, place)] = item
            return [self._plain(item, (*path, place), (*above, node)) for place, item in enumerate(node.value)]
        if isinstance(node, MappingNode):
            return self._mapping(node, path, above)
        return self._scalar(node, path)

    def _mapping(self, node: MappingNode, path: GridPath, above: tuple[Node, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            inner = (*path, key.value if isinstance(key, ScalarNode) else f"<{key.id}>")
            first = self._nodes.get(inner)
            self._nodes[inner] = key
            if not isinstance(key, ScalarNode):
                self._add(inner, "A key must be a name.")
            elif first is not None:
                self._add(inner, f"The key {key.value!r} appears twice, first in line {first.start_mark.line + 1}.")
            else:
                found[key.value] = self._plain(value, inner, (*above, node))
        return found

    def _scalar(self, node: Node, path: GridPath) -> Any:
        try:
            value = self._loader.construct_object(node)
        except Exception as error:  # constructors raise what their conversion does
            reason = getattr(error, "problem", None) or error
            self._add(path, f"Cannot read {node.value!r:.80} as {node.tag}: {reason}.")
            return node.value
        if not isinstance(value, str) and not _looks_like(value, node.value):
            self._read_as[path] = (node.value, value)
        return value

    def _add(self, path: GridPath, message: str) -> None:
        self.problems.append(Problem(path, message))


def _looks_like(value: Any, written: str) -> bool:
    """Return whether a scalar reads as people expect; `on`, read as True, does not."""
    try:
        return float(written.replace("_", "")) == value
    except ValueError:
        return str(value).lower() == written.lower()


def _place(mark: Any) -> str:
    return f":{mark.line + 1}:{mark.column + 1}" if mark else ""
