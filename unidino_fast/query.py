"""Row queries as pandas and pycytominer users write them, made Polars expressions.

`Metadata_Compound == "DMSO" and Metadata_Column in [1, 2]`: names, constants, comparisons, `in`,
`and`, `or`, `not`. The text is parsed, never run.
"""

from __future__ import annotations

import ast
import operator
from typing import TYPE_CHECKING, Any

import polars as pl

from unidino_fast.errors import TableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def parse_query(text: str, columns: Mapping[str, pl.DataType]) -> pl.Expr:
    """A boolean expression over a table's columns.

    Raises:
        UsageError: the text is no query.
        TableError: it names a column that the table does not have, or compares it with a value of
            another kind.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _malformed(text) from None
    return _condition(tree, text, columns)


def _condition(node: ast.expr, text: str, columns: Mapping[str, pl.DataType]) -> pl.Expr:
    match node:
        case ast.BoolOp(op=op, values=values):
            parts = [_condition(value, text, columns) for value in values]
            return pl.all_horizontal(parts) if isinstance(op, ast.And) else pl.any_horizontal(parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~_condition(operand, text, columns)
        case ast.Compare(left=ast.Name(id=name), ops=[op], comparators=[right]):
            return _comparison(name, op, right, text, columns)
    raise _malformed(text)


def _comparison(
    name: str, op: ast.cmpop, right: ast.expr, text: str, columns: Mapping[str, pl.DataType]
) -> pl.Expr:
    if name not in columns:
        raise TableError(f"query {text!r} names column {name}, which the table does not have")
    try:
        value = ast.literal_eval(right)
    except (ValueError, TypeError, SyntaxError, RecursionError):
        raise _malformed(text) from None
    values = list(value) if isinstance(value, list | tuple | set) else [value]
    is_text = columns[name] in (pl.String, pl.Categorical)
    if any(isinstance(item, str) != is_text for item in values):
        kind = "text" if is_text else "a number"
        raise TableError(f"query {text!r} must compare column {name} with {kind}")
    column = pl.col(name)
    if isinstance(op, ast.In | ast.NotIn) and isinstance(value, list | tuple | set):
        found = column.is_in(values)
        return found if isinstance(op, ast.In) else ~found
    if type(op) in _COMPARISONS and not isinstance(value, list | tuple | set):
        found = _COMPARISONS[type(op)](column, value)
        return found if isinstance(found, pl.Expr) else pl.lit(found)
    raise _malformed(text)


def _malformed(text: str) -> UsageError:
    return UsageError(
        f"query {text!r} is not understood: write it like"
        " 'Metadata_Compound == \"DMSO\" and Metadata_Column > 2'"
    )
