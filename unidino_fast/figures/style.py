"""How figures look, how foreign text comes into them, and how they become files.

Colours can be told apart with any colour vision: viridis for amounts, blue to orange for what has a
sign, Okabe and Ito's eight for kinds, with other markers or hatches beyond them.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from unidino_fast.files import atomic
from unidino_fast.names import short_line
from unidino_fast.tables import make_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SUFFIXES = (".png", ".svg", ".pdf")
OKABE_ITO = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#B8A800", "#6B6B6B"]
"""Their yellow is darkened and their black is grey, to be seen on white beside black text."""
MARKERS = ("o", "s", "^", "D", "v")
HATCHES = ("", "//////", "......", "xxxxxx", "------")
MOST_KINDS = len(OKABE_ITO) * len(MARKERS)
OTHERS, MISSING = "(others)", "(none)"
PALE = "#BDBDBD"
WIDTH_MM = 180.0
"""Two columns of most journals."""
LONGEST = 40
"""Characters of a name."""
FONT = "DejaVu Sans"
"""Comes with matplotlib: figures are alike on every machine."""

_STYLE: dict[str, Any] = {
    "font.family": FONT,
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
    "hatch.color": "white",
    "text.parse_math": False,  # `$` and `_` of a compound's name are themselves
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
    "pdf.fonttype": 42,  # text in PDF stays text
    "svg.fonttype": "path",
    "svg.hashsalt": "unidino_fast",  # identifiers that do not change from run to run
}
_DOTS_PER_INCH = 300
_NO_DATES: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


@contextmanager
def style() -> Iterator[None]:
    """Settings of matplotlib within which figures are made and written."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()  # a user's settings change nothing
        cast("dict[str, Any]", mpl.rcParams).update(_STYLE)
        yield


def new_figure(height_mm: float, width_mm: float = WIDTH_MM) -> Any:
    """A figure of a fixed size."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_mm / 25.4, height_mm / 25.4), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Writes `.png` (300 dots an inch), `.svg` or `.pdf`; equal figures give equal bytes.

    Raises:
        OutputError: the file cannot be written.
    """
    suffix = path.suffix.lower()
    make_folder(path.parent)
    with style(), atomic(path) as temporary:
        figure.savefig(temporary, format=suffix[1:], dpi=_DOTS_PER_INCH, metadata=_NO_DATES[suffix])


def shown(value: object, longest: int = LONGEST) -> str:
    """A foreign value as one short line of characters that the font has."""
    return "".join(letter if _has(letter) else "□" for letter in short_line(value, longest))


def add_legend(
    owner: Any, handles: Sequence[Any], names: Sequence[str], title: str, **options: Any
) -> Any:
    """A legend whose texts are set afterwards: matplotlib hides names that begin with `_`."""
    stand_ins = [str(place) for place in range(len(names))]
    legend = owner.legend(handles, stand_ins, title=title, alignment="left", **options)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)
    return legend


@cache
def _has(letter: str) -> bool:
    """Whether the font has a character."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont(FONT))
    return letter == " " or font.get_char_index(ord(letter)) != 0
