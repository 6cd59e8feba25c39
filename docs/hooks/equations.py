"""Equations as MathML, set by the browser itself: no script, no font, nothing to fetch."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Replaces the LaTeX that pymdownx.arithmatex marks."""
    content = _INLINE.sub(lambda match: mathml(match[1]), content)
    return _BLOCK.sub(
        lambda match: f'<div class="equation">{mathml(match[1], display="block")}</div>', content
    )


def mathml(latex: str, *, display: str = "inline") -> str:
    """An equation as MathML."""
    return convert(html.unescape(latex).strip(), display=display)
