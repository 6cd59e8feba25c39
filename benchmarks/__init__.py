"""Measurements of speed: every number that is published is a row that these wrote.

Nothing imports this package but the command line, when `unidino-fast bench` runs. It needs torch,
triton, timm and numpy; what else it can measure or draw with is imported where it is used.
"""
