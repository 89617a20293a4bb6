#!/bin/sh
# Print a Python that Tapeworks runs on: $PYTHON, or the first of the usual names that is 3.11 to 3.13.
for python in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
    if "$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
    then
        command -v "$python"
        exit 0
    fi
done
echo "Tapeworks needs Python 3.11, 3.12 or 3.13 with venv (TensorFlow has no wheels for others)." >&2
echo "None of python3, python3.13, python3.12, python3.11 is one. Name it: make PYTHON=/path/to/python3.12 demo" >&2
exit 1
