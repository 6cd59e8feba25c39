"""One page a command, made of the command line itself whenever the site is built.

`docs/commands/NAME.md` holds what no program knows, its examples; usage, arguments, options and
exit codes are read from the application, so that they cannot be out of date.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import typer.main
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from unidino_fast.cli import app
from unidino_fast.errors import UsageError
from unidino_fast.terminal import INTERRUPTED, TERMINATED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

FOLDER = "commands/"
OVERVIEW = f"{FOLDER}index.md"
_LEAVES_OUT = "done, but some wells were left out; they are named"
EXIT_CODES = {
    0: "done",
    1: "the work failed; one line on standard error says what, and what to do",
    UsageError.exit_code: "wrong usage: an option or argument that cannot be meant",
    INTERRUPTED: "interrupted by Ctrl-C",
    TERMINATED: "interrupted by SIGTERM",
}
OWN_EXIT_CODES = {
    "embed": {3: f"{_LEAVES_OUT} (`--on-error skip`)"},
    "merge": {3: f"{_LEAVES_OUT} (shards that ran with `--on-error skip`)"},
}
_WIDTH = 80
"""Columns of code that a page shows without scrolling."""
_SPECIAL = re.compile(r"[\\`*_{}\[\]<>&#|$~^]")
"""Characters that Markdown or one of its extensions could take for markup."""
_CODE = re.compile(
    r"`(?P<ticked>[^`]+)`"
    r"|(?<![\w-])(?P<option>--[a-z][a-z-]*)"
    r"|docs/(?P<page>[a-z-]+)\.md"
    r"|(?<![\w)\]])(?P<quoted>'[^'\n]+')(?!\w)"
)
"""What is code in a help text: between backticks, options, quoted queries; and pages."""


def tree() -> dict[str, Any]:
    """The commands by name, in the order of `--help`."""
    return dict(typer.main.get_command(app).commands)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the commands into the navigation, after the overview."""
    for section in config.nav or []:
        for pages in section.values():
            if isinstance(pages, list) and OVERVIEW in pages:
                pages.extend({name: f"{FOLDER}{name}.md"} for name in tree())
                return config
    raise PluginError(f"mkdocs.yml has no section with {OVERVIEW}: the commands belong there")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Makes a page for each command that has no examples; refuses examples of none."""
    names = {f"{FOLDER}{name}.md" for name in tree()}
    there = {file.src_uri for file in files if file.src_uri.startswith(FOLDER)} - {OVERVIEW}
    if there - names:
        raise PluginError(f"{', '.join(sorted(there - names))}: there is no such command")
    for name in sorted(names - there):
        files.append(File.generated(config, name, content=""))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str | None:
    """Puts a command's page together."""
    uri = page.file.src_uri
    if uri == OVERVIEW:
        return f"{markdown}\n{overview()}"
    if uri.startswith(FOLDER):
        return command_page(uri.removeprefix(FOLDER).removesuffix(".md"), markdown)
    return None


def overview() -> str:
    """A table of the commands, the options that stand before them, and the exit codes."""
    lines = ["| command | what it does |", "|---|---|"]
    for name, command in tree().items():
        lines.append(f"| [`{name}`]({name}.md) | {prose(paragraphs(command.help)[0])} |")
    codes = {code: text for own in OWN_EXIT_CODES.values() for code, text in own.items()}
    codes = EXIT_CODES | dict.fromkeys(codes, _LEAVES_OUT)
    root = [parameter for parameter in typer.main.get_command(app).params if parameter.help]
    hints = get_type_hints(app.registered_callback.callback)
    options = [line for each in root for line in option(each, hints[each.name], {})]
    return "\n".join([
        *lines, "", "## Options of all commands", "",
        "`--version` stands before a command, `--traceback` anywhere.", "", *options,
        "", *exit_codes(codes),
    ])  # fmt: skip


def command_page(name: str, examples: str) -> str:
    """The page of a command around its examples."""
    command = tree()[name]
    function = command.callback
    origin = inspect.unwrap(function)
    hints, defaults = get_type_hints(origin), inspect.signature(origin).parameters
    first, *more = paragraphs(command.help)
    required = [p for p in command.params if p.required and p.param_type_name == "option"]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    words = [
        *(placeholder(p) for p in arguments),
        *(f"{p.opts[0]} {placeholder(p)}" for p in required),
        "[OPTIONS]",
    ]
    lines = [f"# {name}", "", prose(first), "", "```text", f"unidino-fast {name} {' '.join(words)}"]
    lines += ["```", "", *(line for text in more for line in described(text))]
    lines += [examples, ""]
    lines += ["## Arguments", ""] if arguments else []
    for each in arguments:
        lines += argument(each, hints[each.name])
    lines += ["## Options", ""]
    for each in sorted(options, key=lambda p: not p.required):
        lines += option(each, hints[each.name], defaults)
    lines += exit_codes(EXIT_CODES | OWN_EXIT_CODES.get(name, {}))
    return "\n".join(lines)


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a help text, a line each."""
    return [" ".join(part.split()) for part in textwrap.dedent(text).strip().split("\n\n")]


def described(text: str) -> Iterator[str]:
    """A paragraph, and the command that it ends with as code."""
    said, _, called = text.partition("unidino-fast ")
    said = re.sub(r"\s*Example:\s*$", "", said)
    if said.strip():
        yield prose(said.strip())
        yield ""
    if called:
        yield from ("```sh", folded(f"unidino-fast {called}"), "```", "")


def folded(call: str) -> str:
    """A long command on several lines, broken before options."""
    first, *options = re.split(r" (?=--[a-z])", call)
    lines = [first]
    for each in options:
        if len(lines[-1]) + len(each) < _WIDTH:
            lines[-1] += f" {each}"
        else:
            lines[-1] += " \\"
            lines.append(f"    {each}")
    return "\n".join(lines)


def prose(text: str) -> str:
    """Plain text as Markdown: nothing in it is markup, and what is code looks like code."""
    done, parts = 0, []
    for match in _CODE.finditer(text):
        parts.append(plain(text[done : match.start()]))
        done = match.end()
        if match["page"]:
            parts.append(f"[{match[0]}](../{match['page']}.md)")
            continue
        code = match["ticked"] or match["option"] or match["quoted"]
        parts.append(f"`` {code} ``" if "`" in code else f"`{code}`")
    return "".join([*parts, plain(text[done:])])


def plain(text: str) -> str:
    """Text in which nothing is markup."""
    return _SPECIAL.sub(lambda match: f"&#{ord(match[0])};", text)


def placeholder(parameter: Any) -> str:
    """What stands for a value in the usage line."""
    name = parameter.metavar or parameter.name.upper().replace("_", "-")
    several = parameter.nargs == -1 and not name.endswith("...")
    return f"{name}..." if several else str(name)


def argument(parameter: Any, hint: Any) -> Iterator[str]:
    """An argument: its name, what it is, and what it may be."""
    yield f"### `{placeholder(parameter)}` {{ #argument-{parameter.name} }}"
    yield ""
    yield prose(parameter.help or "")
    yield ""
    if get_origin(hint) is Literal:
        yield f"{taken(parameter, hint)}\n{{ .facts }}"
        yield ""


def option(parameter: Any, hint: Any, defaults: Any) -> Iterator[str]:
    """An option: its name, what it does, what it takes, and what it is if it is left out."""
    name = parameter.opts[0]
    yield f"### `{name}` {{ #{name.lstrip('-')} }}"
    yield ""
    yield prose(parameter.help or "")
    yield ""
    facts = [] if parameter.is_flag else [taken(parameter, hint)]
    if parameter.required:
        facts.append("**required**")
    elif not parameter.is_flag:
        facts.append(f"default: {default(parameter, defaults)}")
    if facts:
        yield f"{' · '.join(facts)}\n{{ .facts }}"
        yield ""


def taken(parameter: Any, hint: Any) -> str:
    """What values an option takes."""
    kinds, several = _kinds(hint)
    if parameter.metavar:
        text = f"`{parameter.metavar}`"
    elif len(kinds) > 1 or get_origin(hint) is Literal:
        text = " &#124; ".join(f"`{kind}`" for kind in kinds)
    else:
        words = {"str": "text", "int": "whole number", "float": "number", "Path": "path"}
        text = words[kinds[0]]
    lowest, highest = getattr(parameter, "min", None), getattr(parameter, "max", None)
    text += "" if lowest is None else f", {lowest} or more"
    text += "" if highest is None else f", {highest} or less"
    return f"{text}; may be given again" if several else text


def _kinds(hint: Any) -> tuple[list[str], bool]:
    """Names of the values or of the type of a hint, and whether it is a list of them."""
    if get_origin(hint) is Literal:
        return list(get_args(hint)), False
    if get_origin(hint) is list:
        return _kinds(get_args(hint)[0])[0], True
    inner = [kind for kind in get_args(hint) if kind is not type(None)]
    return _kinds(inner[0]) if inner else ([hint.__name__], False)


def default(parameter: Any, defaults: Any) -> str:
    """What an option is if it is left out."""
    if isinstance(parameter.show_default, str):
        return prose(parameter.show_default)
    value = (
        parameter.default if parameter.name not in defaults else defaults[parameter.name].default
    )
    return "none" if value is None else f"`{value}`"


def exit_codes(codes: dict[int, str]) -> list[str]:
    """A table of exit codes."""
    rows = [f"| {code} | {text} |" for code, text in sorted(codes.items())]
    return ["## Exit codes", "", "| code | meaning |", "|---|---|", *rows, ""]
