import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEVICE = Path(__file__).parent / "device"


@pytest.mark.parametrize("path", sorted(DEVICE.glob("test_*.py")), ids=lambda path: path.stem)
def test_kernels_in_the_interpreter(path):
    """Runs the tests of one file in a process that has Triton's interpreter from the start."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"--confcutdir={DEVICE}", str(path)],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"^\d+ passed in", done.stdout, re.MULTILINE), done.stdout[-500:]
