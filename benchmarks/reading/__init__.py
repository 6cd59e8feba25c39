"""`bench io`: pixels a second from stored chunks, ours and everybody's."""

from __future__ import annotations

from unidino_fast.benchmarks.reading.bench import bench_io, io_effort

__all__ = ["bench_io", "io_effort"]
