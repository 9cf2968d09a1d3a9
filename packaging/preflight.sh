#!/bin/sh
# Prints the Python that is to make .venv, or says in one line what the machine lacks.
#
# The headers are looked for where the interpreter itself says they are, not where Debian puts
# them: a Python from pyenv or python.org brings its own.
set -u

python=""
for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
    # Run, not only found: pyenv leaves shims for versions that are not there.
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python="$candidate"
        break
    fi
done

missing=""
if [ -z "$python" ]; then
    missing="$missing python3>=3.11 venv Python.h"
else
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing venv"
    "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' \
        2>/dev/null || missing="$missing Python.h"
fi
for tool in gcc make; do
    command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
done

if [ -n "$missing" ]; then
    echo "missing:$missing ; install with:" \
        "sudo apt-get install -y python3.11-venv python3.11-dev gcc make" >&2
    exit 1
fi
echo "$python"
