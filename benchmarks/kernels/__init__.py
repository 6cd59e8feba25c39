"""Benchmarks of the kernels, one op a file: `cases(device)` gives the jobs that are timed."""
