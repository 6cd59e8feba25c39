"""Measures every way to read in every layout."""

from __future__ import annotations

import tempfile
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unidino_fast.benchmarks.measure import Candidate, Effort, HostWatch, measure
from unidino_fast.benchmarks.noise import Neighbours, describe_noise
from unidino_fast.benchmarks.reading.gil import gil_share
from unidino_fast.benchmarks.reading.layouts import CHANNELS, CODECS, EDGE, Layout, simulated, store
from unidino_fast.benchmarks.reading.readers import BARE, LOOP, readers
from unidino_fast.benchmarks.rows import Row, rate_figures, ratio_figures
from unidino_fast.errors import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from unidino_fast.benchmarks.environment import Environment
    from unidino_fast.benchmarks.reading.layouts import Pixels, Stored
    from unidino_fast.benchmarks.reading.readers import Read

_MEGA = 1e6
_CHUNKS = (EDGE, 270)


def io_effort(*, quick: bool) -> Effort:
    """How long a layout is measured."""
    if quick:
        return Effort((3, 5), 3.0, sample_seconds=0.0, settle_seconds=0.0)
    # two threads that wake on one core share it for some ten milliseconds: a sample outlasts that
    return Effort((5, 25), 8.0, sample_seconds=0.1, settle_seconds=0.01)


def bench_io(
    environment: Environment,
    say: Callable[[str], None],
    *,
    effort: Effort,
    n_fields: int = 24,
    codecs: tuple[str, ...] = CODECS,
) -> Iterator[Row]:
    """Rows of each layout, as they come; files are in the page cache.

    What a pass does once (threads begin and end) weighs as in a well or two of many fields; a plate
    has hundreds of them.
    """
    pixels = simulated(n_fields)
    for chunk in _CHUNKS:
        for codec in codecs:
            say(f"io: {codec}, chunks of {chunk} px")
            with tempfile.TemporaryDirectory() as folder:
                stored = store(Layout(codec, chunk), pixels, Path(folder))
                yield from layout_rows(stored, environment, effort)


def layout_rows(stored: Stored, environment: Environment, effort: Effort) -> list[Row]:
    """Measures all candidates on one layout."""
    ratio = stored.n_bytes / stored.pixel_bytes
    common: dict[str, Any] = {
        "benchmark": "io",
        "shape": f"{len(stored.pixels)} fields x {len(CHANNELS)} channels of {EDGE} x {EDGE} px,"
        f" {stored.layout.codec} ({ratio:.2f} of the pixels' bytes), chunks of"
        f" {stored.layout.chunk} px",
        "precision": "uint16",
        "environment": environment,
    }
    absent: dict[str, str] = {}
    watch = _CpuWatch()
    running = []
    for name, build in readers().items():
        try:
            run = _checked(build(stored), stored.pixels, is_placed=BARE not in name)
        except ImportError as error:
            absent[name] = f"not installed: {first_line(error)}"
        except Exception as error:  # a competitor's own
            absent[name] = f"left out: {first_line(error)}"
        else:
            running.append(Candidate(name, run, float(stored.pixel_bytes)))
    neighbours = Neighbours()
    taken = measure(running, watch, effort)
    others = neighbours.busy_cores()
    rows = [Row(candidate=name, note=note, **common) for name, note in absent.items()]
    cpu = {candidate.name: watch.cpu_seconds(candidate.run) for candidate in running}
    bare = cpu.get(f"{BARE}, 1 thread")
    for candidate in running:
        samples = taken[candidate.name]
        figures: dict[str, Any] = {"unit": "MB/s", "noise": describe_noise(samples, others)}
        figures |= rate_figures(samples, per=_MEGA)
        figures |= ratio_figures(samples, taken[LOOP], LOOP)
        figures["gil_share"] = gil_share(candidate.run)
        figures["cpu_ratio"] = None if bare is None else cpu[candidate.name] / bare
        rows.append(Row(candidate=candidate.name, **common, **figures))
    return rows


class _CpuWatch(HostWatch):
    """Keeps the processor time of this process too."""

    def __init__(self) -> None:
        self._taken: dict[int, list[float]] = {}

    def seconds(self, run: Callable[[], object], calls: int) -> float:
        """See `Stopwatch`."""
        before = time.process_time()
        seconds = super().seconds(run, calls)
        self._taken.setdefault(id(run), []).append((time.process_time() - before) / calls)
        return seconds

    def cpu_seconds(self, run: Callable[[], object]) -> float:
        """Of all threads in a call; the median."""
        return float(np.median(self._taken[id(run)]))


def _checked(read: Read, pixels: list[Pixels], *, is_placed: bool) -> Callable[[], object]:
    """A run of a reader, after its pixels have been compared."""
    for one, other in zip(read(), pixels if is_placed else (), strict=True):
        np.testing.assert_array_equal(one, other)  # before its memory is used again
    return lambda: deque(read(), maxlen=0)
