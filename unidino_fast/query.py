"""Row queries as pandas and pycytominer users write them, made Polars expressions.

`Metadata_Compound == "DMSO" and Metadata_Column in [1, 2]`: columns, text, numbers, comparisons,
`in`, `and`, `or`, `not`, and their forms `&`, `|`, `~`; a name in backticks may hold spaces. They
mean what they mean in `pandas.DataFrame.query`, for null too: it equals nothing and differs from
everything. The text is parsed, never run.
"""

from __future__ import annotations

import ast
import difflib
import itertools
import operator
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from unidino_fast.errors import TableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Kind = Literal["text", "number", "true or false"]
Value = str | int | float | bool

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_LONGEST = 10_000
_DEEPEST = 50
_TOKENS = re.compile(r"""(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|`(?P<name>[^`]+)`|[&|]""")
_QUOTED = "backtick_{}_"


def parse_query(text: str, columns: Mapping[str, pl.DataType]) -> pl.Expr:
    """A boolean expression over a table's columns, never null.

    Raises:
        UsageError: the text is no query.
        TableError: it names a column that the table does not have, or compares it with a value of
            another kind.
    """
    return _Parser(text, columns).parse()


@dataclass(frozen=True, slots=True)
class _Operand:
    """One side of a comparison: a column, a value or a list of values."""

    kind: Kind
    column: pl.Expr | None = None
    values: tuple[Value, ...] = ()
    is_list: bool = False
    shown: str = ""


class _Parser:
    """One query on one table."""

    def __init__(self, text: str, columns: Mapping[str, pl.DataType]) -> None:
        self.text = text
        self.columns = columns
        self.quoted: dict[str, str] = {}

    def parse(self) -> pl.Expr:
        """See `parse_query`."""
        if len(self.text) > _LONGEST:
            raise UsageError(
                f"query of {len(self.text)} characters is too long: use {_LONGEST} at most"
            )
        source = _TOKENS.sub(self._plain_token, self.text).strip()
        try:
            with warnings.catch_warnings():  # Python has an opinion on "\d" and on `1in`
                warnings.simplefilter("ignore")
                tree = ast.parse(source, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise self._malformed() from None
        return self._condition(tree, _DEEPEST)

    def _plain_token(self, match: re.Match[str]) -> str:
        """Python for what pandas writes otherwise: `&`, `|`, names in backticks."""
        if match["text"] is not None:
            return match["text"]
        if match["name"] is None:
            return " and " if match[0] == "&" else " or "
        placeholder = _QUOTED.format(len(self.quoted))
        self.quoted[placeholder] = match["name"]
        return placeholder

    def _condition(self, node: ast.expr, depth: int) -> pl.Expr:
        if depth == 0:
            raise UsageError(
                f"query {self._shown()} is nested too deeply: use {_DEEPEST} levels at most"
            )
        match node:
            case ast.BoolOp(op=op, values=values):
                parts = [self._condition(value, depth - 1) for value in values]
                is_and = isinstance(op, ast.And)
                return pl.all_horizontal(parts) if is_and else pl.any_horizontal(parts)
            case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
                return ~self._condition(operand, depth - 1)
            case ast.Name():
                side = self._operand(node)
                if side.column is not None and side.kind == "true or false":
                    return side.column.fill_null(value=False)
                raise TableError(
                    f"query {self._shown()} needs a comparison:"
                    f" column {side.shown} holds {side.kind}"
                )
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                sides = [self._operand(side) for side in (left, *comparators)]
                found = [
                    self._comparison(op, *pair)
                    for op, pair in zip(ops, itertools.pairwise(sides), strict=True)
                ]
                return found[0] if len(found) == 1 else pl.all_horizontal(found)
        raise self._malformed()

    def _comparison(self, op: ast.cmpop, left: _Operand, right: _Operand) -> pl.Expr:
        if left.column is None:
            if right.column is None or left.is_list or type(op) not in _COMPARISONS:
                raise self._malformed()
            return self._comparison(_MIRRORED.get(type(op), type(op))(), right, left)
        if left.kind != right.kind and not (right.is_list and not right.values):
            given = right.shown or right.kind
            raise TableError(
                f"query {self._shown()} compares column {left.shown} with {given}:"
                f" it holds {left.kind}"
            )
        is_in = isinstance(op, ast.In | ast.Eq)
        if right.is_list and is_in | isinstance(op, ast.NotIn | ast.NotEq):
            found = _is_in(left.column, right.values)
            return found if is_in else ~found
        if type(op) not in _COMPARISONS or right.is_list:
            raise self._malformed()
        other = pl.lit(_number(right.values[0])) if right.column is None else right.column
        compared: pl.Expr = _COMPARISONS[type(op)](left.column, other)
        return compared.fill_null(value=isinstance(op, ast.NotEq))

    def _operand(self, node: ast.expr) -> _Operand:
        if isinstance(node, ast.Name):
            return self._column(self.quoted.get(node.id, node.id))
        is_list = isinstance(node, ast.List | ast.Tuple | ast.Set)
        items = node.elts if isinstance(node, ast.List | ast.Tuple | ast.Set) else [node]
        values = tuple(self._value(item) for item in items)
        kinds = {_kind_of(value) for value in values}
        if len(kinds) > 1:
            raise TableError(f"query {self._shown()} mixes {' and '.join(sorted(kinds))} in a list")
        return _Operand(kinds.pop() if kinds else "text", None, values, is_list)

    def _value(self, node: ast.expr) -> Value:
        match node:
            case ast.Constant(value=bool() | str() | int() | float() as value):
                return value
            case ast.UnaryOp(
                op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant(value=value)
            ) if isinstance(value, int | float) and not isinstance(value, bool):
                return -value if isinstance(sign, ast.USub) else value
        raise self._malformed()

    def _column(self, name: str) -> _Operand:
        if name not in self.columns:
            near = difflib.get_close_matches(name, [*self.columns], n=1, cutoff=0.6)
            prefixed = f"Metadata_{name}"
            hint = prefixed if prefixed in self.columns else near[0] if near else ""
            raise TableError(
                f"query {self._shown()} names column {name}, which the table does not have: "
                + (f"did you mean {hint}?" if hint else "write text in quotes")
            )
        dtype = self.columns[name]
        column = pl.col(name)
        if isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
            return _Operand("text", column.cast(pl.String), shown=name)
        if dtype.is_float():
            return _Operand("number", column.fill_nan(None), shown=name)
        if dtype.is_numeric():
            return _Operand("number", column, shown=name)
        if dtype == pl.Boolean:
            return _Operand("true or false", column, shown=name)
        raise TableError(
            f"query {self._shown()} names column {name}, which holds {dtype}:"
            " compare columns of text or numbers"
        )

    def _shown(self) -> str:
        return repr(self.text if len(self.text) <= 200 else f"{self.text[:200]}...")

    def _malformed(self) -> UsageError:
        return UsageError(
            f"query {self._shown()} is not understood: write it like"
            " 'Metadata_Compound == \"DMSO\" and Metadata_Column > 2'"
        )


_MIRRORED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt,
    ast.LtE: ast.GtE,
    ast.Gt: ast.Lt,
    ast.GtE: ast.LtE,
}


def _kind_of(value: Value) -> Kind:
    if isinstance(value, str):
        return "text"
    return "true or false" if isinstance(value, bool) else "number"


def _number(value: Value) -> Value:
    """Integers that Polars has no room for become floats."""
    if isinstance(value, bool | str | float) or abs(value) < 2**63:
        return value
    return float(value) if abs(value) < 10**308 else float("inf") * (1 if value > 0 else -1)


def _is_in(column: pl.Expr, values: tuple[Value, ...]) -> pl.Expr:
    """Whether each cell is one of the values; false for null."""
    numbers = [_number(value) for value in values]
    if any(isinstance(value, float) for value in numbers):
        column, numbers = column.cast(pl.Float64), [float(value) for value in numbers]
    found = column.is_in(numbers) if numbers else column.is_null() & pl.lit(value=False)
    return found.fill_null(value=False)
