"""MkDocs hook: the pages and files of the site that live outside of docs/, and links between the two.

Links are written as the repository resolves them. Of a target outside of docs/ the site holds a copy.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "notebooks/README.md": "notebooks.md",
}
"""Pages of the site whose source is elsewhere in the repository."""
COPIES = "files"
_LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)\s#]+)(#[^)\s]*)?\)")
_SIZED_IMAGE = re.compile(r'<img src="([^"]+)" alt="([^"]+)" width="(\d+)">')
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def on_config(config: Any) -> Any:
    """Put the cards of all methods into the navigation."""
    (methods,) = (part["Methods"] for part in config.nav if "Methods" in part)
    cards = sorted(file for file in (ROOT / "docs/methods").glob("*.md") if file.name != "README.md")
    methods += [{card.stem: f"methods/{card.name}"} for card in cards]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from elsewhere, and a copy of each file outside of docs/ that a page or another copy links to."""
    for source, uri in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    pages = list(files.documentation_pages())
    for page in pages:
        for target in _outside(page):
            if files.get_file_from_path(f"{COPIES}/{target}") is None:
                copy = File.generated(
                    config,
                    f"{COPIES}/{target}",
                    abs_src_path=str(ROOT / target),
                    inclusion=InclusionLevel.NOT_IN_NAV,
                )
                files.append(copy)
                pages += [copy] if copy.is_documentation_page() else []
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point the links and images of a page to where the site holds their targets; MkDocs leaves HTML as it is."""
    here = _place(page.file)

    def pointed(found: re.Match[str]) -> str:
        opening, link, anchor = found[1], found[2], found[3] or ""
        if ":" in link:
            return found[0]
        uri = _uri(_target(here, link))
        return f"{opening}{posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or '.')}{anchor})"

    return _outside_code(markdown, lambda text: _LINK.sub(pointed, _SIZED_IMAGE.sub(r"![\2](\1){ width=\3 }", text)))


def _place(file: File) -> str:
    """A page's path in the repository."""
    uri = file.src_uri
    if uri.startswith(f"{COPIES}/"):
        return uri.removeprefix(f"{COPIES}/")
    return {page: source for source, page in PAGES.items()}.get(uri, f"docs/{uri}")


def _target(here: str, link: str) -> str:
    """The path in the repository that a link leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(here), link))


def _uri(target: str) -> str:
    """The place of a file of the repository in the site."""
    if target in PAGES:
        return PAGES[target]
    return target.removeprefix("docs/") if target.startswith("docs/") else f"{COPIES}/{target}"


def _outside(page: File) -> Iterator[str]:
    """The files outside of docs/ that a page links to."""
    prose = _FENCE.sub("", page.content_string)
    for found in _LINK.finditer(prose):
        target = _target(_place(page), found[2])
        if ":" not in found[2] and _uri(target).startswith(f"{COPIES}/") and (ROOT / target).is_file():
            yield target


def _outside_code(markdown: str, change: Any) -> str:
    parts, last = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [change(markdown[last : fence.start()]), fence[0]]
        last = fence.end()
    return "".join([*parts, change(markdown[last:])])
