"""Packaging: only names under ``unidino_fast`` are installed.

``kernels``, ``training`` and ``benchmarks`` live at the top of the repository and are linked into
the package (``unidino_fast/kernels -> ../kernels``), so that they install as
``unidino_fast.kernels`` and never claim a bare name in site-packages.
"""

from setuptools import find_packages, setup

setup(
    packages=find_packages(include=["unidino_fast", "unidino_fast.*"]),
    include_package_data=False,  # what is listed alone: else folders of data count as packages
    package_data={
        "unidino_fast": ["py.typed", "__init__.pyi"],
        "unidino_fast.backbones": ["shipped/*.safetensors"],
        "unidino_fast.profiles": ["recipes/*.toml"],
        "unidino_fast.evaluation.protocols": ["*.toml"],
        "unidino_fast.qc": ["*.toml"],
        "unidino_fast.report": ["templates/*", "templates/scripts/*", "templates/sections/*"],
    },
)
