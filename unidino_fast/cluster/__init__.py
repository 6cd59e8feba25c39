"""Embedding on other processes: this machine's (`local`) or any dask.distributed cluster's.

`job` is what travels to a worker and what it does with it, `dispatch` hands jobs out and takes the
results in, `session` opens and closes the whole, `local` starts the processes, `travel` packs the
backbone. Nothing here is imported by an `embed` that stays
in its own process.
"""
