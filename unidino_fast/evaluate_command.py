"""What `evaluate` does: a question or a recipe, baselines beside it, and where it all goes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import polars as pl

from unidino_fast.errors import TableError, UsageError
from unidino_fast.evaluation.baselines import Baseline, baseline_table
from unidino_fast.evaluation.cellprofiler import read_profiles
from unidino_fast.evaluation.nearest_neighbour import NearestNeighbourResult
from unidino_fast.evaluation.protocols import load_recipe, run_recipe
from unidino_fast.evaluation.protocols.prepare import chosen
from unidino_fast.evaluation.protocols.recipe import steps_of
from unidino_fast.evaluation.questions import Question, answer
from unidino_fast.files import write_json
from unidino_fast.names import one_line
from unidino_fast.tables import check_output, make_folder, read_table, write_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from unidino_fast.evaluation.questions import Result
    from unidino_fast.profiles.recipe import Recipe as Steps

    OnStep = Callable[[int, int], None]

_SUFFIXES = (".parquet", ".csv", ".json")
_PROFILES = "profiles"


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """What was typed, besides the question.

    Attributes:
        recipe: name or path; a question of its own is then not allowed.
        joins: tables of labels, of a recipe.
        normalize: a method, of a recipe.
        select: operations of feature selection, of a recipe.
        samples: query of the rows that `normalize` learns from.
        features: prefixes of the features.
        where: queries that all rows must fit.
        baselines: by name.
        out: file for the tidy rows.
        seed: of everything that is drawn.
    """

    recipe: str | None = None
    joins: tuple[Path, ...] = ()
    normalize: str | None = None
    select: tuple[str, ...] = ()
    samples: str | None = None
    features: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    out: Path | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the command found: for people, for programs, and as rows."""

    text: str
    document: dict[str, Any]
    rows: pl.DataFrame


def evaluate_table(
    path: Path, question: Question, options: EvaluateOptions, on_step: OnStep | None = None
) -> Evaluation:
    """Answers a question, or those of a recipe, and writes the rows where they were asked for.

    Everything typed is checked before the table is read.

    Raises:
        UsageError: options that are unknown or do not go together.
        TableError: the table is not fit for what is asked.
        OutputError: the rows cannot be written.
    """
    _check(path, question, options)
    if options.recipe is None:
        found = _answered(path, question, options, on_step)
    else:
        found = _run(path, options.recipe, options, on_step)
    if options.out is not None:
        _write(found.rows, options.out, {"input": path.name, "seed": options.seed})
    return found


def _check(path: Path, question: Question, options: EvaluateOptions) -> None:
    for kind in options.baselines:
        if kind not in get_args(Baseline):
            known = " or ".join(get_args(Baseline))
            raise UsageError(f"baseline {kind!r} is unknown: use {known}")
    if options.seed < 0:
        raise UsageError(f"seed {options.seed} is negative: use 0 or more")
    if options.out is not None:
        recipe = None if options.recipe is None else Path(options.recipe)
        joins = {f"the table {file} that is joined": file for file in options.joins}
        read = {"the table that is read": path, "the recipe": recipe, **joins}
        check_output(options.out, read, _SUFFIXES)
    if not all(prefix.strip() for prefix in options.features):
        raise UsageError("--features is empty: name how features begin, such as Cells_")
    if options.recipe is None:
        for name, value in (
            *(("--join", options.joins), ("--normalize", options.normalize)),
            *(("--select", options.select), ("--samples", options.samples)),
        ):
            if value not in (None, ()):
                raise UsageError(
                    f"{name} belongs to a --recipe: without one, make the table with"
                    " unidino-fast profile first"
                )
        question.check()
    elif question != Question():
        raise UsageError(
            "a --recipe brings its own questions: leave out --metric and its options, or write a"
            " recipe of your own"
        )
    elif options.samples is not None and options.normalize is None:
        raise UsageError("--samples belongs to --normalize: name a method")


def _answered(
    path: Path, question: Question, options: EvaluateOptions, on_step: OnStep | None
) -> Evaluation:
    table = read_profiles(path, options.features)
    for query in options.where:
        table = chosen(table, query)
    result = answer(table, question, seed=options.seed, on_step=on_step)
    _check_asked(result)
    others = {
        kind: answer(
            baseline_table(table, kind, options.seed),  # type: ignore[arg-type]
            question,
            seed=options.seed,
            on_step=on_step,
        )
        for kind in dict.fromkeys(options.baselines)
    }
    text = [result.summary(), *(f"baseline {k}: {v.summary()}" for k, v in others.items())]
    document = result.to_dict()
    if others:
        document["baselines"] = {kind: other.to_dict() for kind, other in others.items()}
    rows = {_PROFILES: result.to_frame(), **{k: v.to_frame() for k, v in others.items()}}
    named = [frame.select(pl.lit(name).alias("table"), pl.all()) for name, frame in rows.items()]
    return Evaluation("\n".join(text), document, pl.concat(named))


def _check_asked(result: Result) -> None:
    """Raises TableError where nobody could be asked: a score of nothing is none."""
    if not isinstance(result, NearestNeighbourResult):
        return
    if result.n_without_candidate == result.n_queries:
        raise TableError(
            f"none of {result.n_queries} rows has another that it may match: each other shares"
            f" {' or '.join(map(one_line, result.not_same))} with it, exclude fewer columns"
        )


def _run(path: Path, name: str, options: EvaluateOptions, on_step: OnStep | None) -> Evaluation:
    recipe = load_recipe(name)
    if options.features:
        recipe = recipe.model_copy(update={"features": options.features})
    steps = _steps(options)
    result = run_recipe(
        read_table(path),
        recipe,
        joined={str(file): read_table(file) for file in options.joins},
        steps=steps,
        where=options.where,
        baselines=options.baselines,  # type: ignore[arg-type]
        seed=options.seed,
        on_step=on_step,
    )
    document = {"recipe": name, **result.to_dict()}
    chosen_steps = steps or recipe.steps
    document["steps"] = [] if chosen_steps is None else chosen_steps.describe()
    return Evaluation(result.summary(), document, result.to_frame())


def _steps(options: EvaluateOptions) -> Steps | None:
    """Normalisation, then selection, as they were typed."""
    steps: list[dict[str, Any]] = []
    if options.normalize is not None:
        samples = {} if options.samples is None else {"samples": options.samples}
        steps.append({"normalize": options.normalize, **samples})
    if options.select:
        steps.append({"select": list(options.select)})
    return steps_of(steps, "the command line") if steps else None


def _write(rows: pl.DataFrame, out: Path, provenance: dict[str, Any]) -> None:
    if out.suffix.lower() != ".json":
        write_table(rows, out, provenance)
        return
    make_folder(out.parent)
    write_json({**provenance, "rows": rows.to_dicts()}, out)


def as_json(document: dict[str, Any]) -> str:
    """One line of strict JSON."""
    return json.dumps(document, allow_nan=False)
