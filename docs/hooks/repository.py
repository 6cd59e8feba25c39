"""Files of the repository that pages link to (`../CHANGELOG.md`, `../configs/lora.toml`).

Documents become pages of the site, other files are copied into it; links to them are rewritten, so
that they lead somewhere both here and where the repository is browsed.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "benchmarks/results/README.md": "measurements.md",
    "kernels/README.md": "kernel-floors.md",
}
"""Documents, and the pages that they are; that of README.md is written for the site."""
_LINK = re.compile(r"(\]\()([^)#\s:]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the documents, and all files that pages link to."""
    for document, uri in PAGES.items():
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, content=(ROOT / document).read_text()))
    for page in list(files.documentation_pages()):
        for _, target, _ in _LINK.findall(page.content_string):
            origin = _of_repository(page.src_uri, target)
            if origin is None or origin in PAGES or origin.startswith("docs/"):
                continue
            uri, source = _copy(origin), _source(origin)
            if source is None:
                raise PluginError(f"{page.src_uri} links to {target}, which is no file")
            if files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Rewrites links to files of the repository."""

    def rewritten(match: re.Match[str]) -> str:
        origin = _of_repository(page.file.src_uri, match[2])
        if origin is None:
            return match[0]
        uri = origin.removeprefix("docs/") if origin.startswith("docs/") else _place(origin)
        here = posixpath.dirname(page.file.src_uri)
        return f"{match[1]}{posixpath.relpath(uri, here)}{match[3]}"

    return _LINK.sub(rewritten, markdown)


def _of_repository(uri: str, target: str) -> str | None:
    """Path in the repository that a page's link leads to; None where it stays within the site."""
    origin = {page: document for document, page in PAGES.items() if page != "index.md"}.get(uri)
    base = f"docs/{uri}" if origin is None else origin
    path = posixpath.normpath(posixpath.join(posixpath.dirname(base), target))
    return None if origin is None and path.startswith("docs/") else path


def _source(origin: str) -> Path | None:
    """A file of the repository; what is linked into the package, the sdist has only there."""
    places = (ROOT / origin, ROOT / "unidino_fast" / origin)
    return next((place for place in places if place.is_file()), None)


def _place(origin: str) -> str:
    return PAGES.get(origin) or _copy(origin)


def _copy(origin: str) -> str:
    return f"files/{origin}"
