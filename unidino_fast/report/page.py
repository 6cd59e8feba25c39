"""Sections -> one HTML file that needs nothing else: scripts, data and pictures are inside it.

Foreign text reaches the page in two ways only: through Jinja, which escapes it, and as JSON in a
script element whose `<`, `>` and `&` are escapes of their own, from where it is shown as text. What
a browser may run is named by digest in the page's Content-Security-Policy, which also forbids any
connection: what slipped through would neither run nor reach anybody.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from unidino_fast.report.section import Section

_VEGA_LITE = "6.4"
_SNIPPET = "window.vegaEmbed = vegaEmbed;"
_TEMPLATES = "templates"
_SCRIPTS = ("tips", "charts", "keys", "wells", "start")
"""Parts of the page's own script, which share one scope."""


def render_page(
    template: str, sections: Sequence[Section], data: Mapping[str, Any], **values: Any
) -> str:
    """The page.

    Args:
        template: of the whole, in `templates`.
        sections: in their order.
        data: further data for the page's script.
        values: further values of the template.
    """
    charts = {
        chart.key: {"spec": chart.spec, "alt": chart.alt, "steps": chart.steps}
        for section in sections
        for chart in section.charts
    }
    choices = {
        choice.key: [dict(option.patches) for option in choice.options]
        for section in sections
        for choice in section.choices
    }
    named = {name: rows for section in sections for name, rows in section.data.items()}
    document = {**data, "charts": charts, "choices": choices, "data": {**data["data"], **named}}
    scripts = (vega(), _own_script())
    return (
        _environment()
        .get_template(template)
        .render(
            sections=sections,
            style=Markup(_text("style.css")),
            scripts=[Markup(script) for script in scripts],
            policy=policy(scripts),
            document=Markup(script_json(document)),
            **values,
        )
    )


def script_json(document: Mapping[str, Any]) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or opens a comment.

    Raises:
        ValueError: a number is not finite, which JSON cannot say.
    """
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def policy(scripts: Sequence[str]) -> str:
    """Content-Security-Policy: these scripts and no others, no connection to anywhere.

    Vega compiles the expressions of our charts, hence `unsafe-eval`.
    """
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline';"
        " img-src data:; base-uri 'none'; form-action 'none'"
    )


@cache
def vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, which vl-convert carries within it."""
    import vl_convert

    script: str = vl_convert.javascript_bundle(_SNIPPET, vl_version=_VEGA_LITE)
    if "</script" in script.lower() or "<!--" in script:  # would end the element that holds it
        script = script.replace("</", "<\\/").replace("<!--", "<\\!--")
    return script


def _own_script() -> str:
    """Draws the charts and answers to the reader."""
    parts = "\n".join(_text(f"scripts/{name}.js") for name in _SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("unidino_fast.report", _TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _text(name: str) -> str:
    return (files("unidino_fast.report") / _TEMPLATES / name).read_text(encoding="utf-8")
