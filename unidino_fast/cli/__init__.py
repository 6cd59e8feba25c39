"""The command line: one thin function a command; what they need is imported when they run."""

from __future__ import annotations

# isort: off
# In the order in which `--help` lists the commands.
from unidino_fast.cli import plates as plates
from unidino_fast.cli import profiles as profiles
from unidino_fast.cli import evaluation as evaluation
from unidino_fast.cli import comparison as comparison
from unidino_fast.cli import reports as reports
from unidino_fast.cli import search as search
from unidino_fast.cli import novelty as novelty
from unidino_fast.cli import figures as figures
from unidino_fast.cli import backbones as backbones
from unidino_fast.cli import training as training
from unidino_fast.cli import doctor as doctor

# isort: on
from unidino_fast.cli.app import app
from unidino_fast.terminal import run


def main() -> None:
    """Entry point."""
    run(app)
