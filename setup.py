"""Finds what pyproject.toml cannot say: the extensions of `_sched`, and the packages.

Every `_sched/*.pyx` is an extension module of its own. SCHED_DEBUG=1 in the environment builds them
with bounds checks, line tracing, annotated C and the C macro SCHED_DEBUG, which turns on the O(n)
checks after every change; SCHED_ASAN=1 beside it adds AddressSanitizer. Generated C of the two
kinds lies in two folders, so neither is mistaken for the other. The packages come from three
folders, so that one wheel needs nothing unpublished.
"""

from __future__ import annotations

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup

# Build backends run this file from its own folder.
SOURCES = sorted(path.as_posix() for path in Path("_sched").glob("*.pyx"))
DEBUG = os.environ.get("SCHED_DEBUG", "0") == "1"
ASAN = DEBUG and os.environ.get("SCHED_ASAN", "0") == "1"

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": DEBUG,
    "initializedcheck": DEBUG,
    "linetrace": DEBUG,
    "profile": False,
}
SANITIZER = ["-fsanitize=address", "-fno-omit-frame-pointer"] if ASAN else []
# -Wextra would drown our warnings in those of the C that Cython writes.
FLAGS = ["-O1", "-g", *SANITIZER] if DEBUG else ["-O3"]
MACROS: list[tuple[str, str | None]] = (
    [("SCHED_DEBUG", "1"), ("CYTHON_TRACE", "1")] if DEBUG else []
)


def extensions() -> list[Extension]:
    """One extension per `_sched/*.pyx`; a header that changes rebuilds all that may include it, and
    a change of the flags below rebuilds all."""
    headers = sorted(path.as_posix() for path in Path("_sched").glob("*.pxd"))
    modules = [
        Extension(
            name="_sched." + Path(source).stem,
            sources=[source],
            depends=[*headers, "setup.py"],
            define_macros=MACROS,
            extra_compile_args=FLAGS,
            extra_link_args=SANITIZER,
        )
        for source in SOURCES
    ]
    built: list[Extension] = cythonize(
        modules,
        build_dir="build/cython-debug" if DEBUG else "build/cython",
        annotate=DEBUG,
        compiler_directives=DIRECTIVES,
        quiet=True,
    )
    return built


setup(
    ext_modules=extensions() if SOURCES else [],
    packages=[
        *find_packages(include=["broker", "broker.*", "_sched", "_sched.*"]),
        *find_packages("clients/cli", include=["brokerctl", "brokerctl.*"]),
        *find_packages("clients/python/src", include=["broker_client", "broker_client.*"]),
    ],
)
