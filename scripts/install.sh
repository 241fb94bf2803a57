#!/bin/sh
# Sets up the virtual environment: what `make install` does. Needs Python 3.11 or newer.
set -eu
PYTHON="${PYTHON:-python3}"
VENV="${VENV:-.venv}"

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    echo "error: Python 3.11 or newer is needed, but \`$PYTHON\` is $("$PYTHON" -V 2>&1 || echo missing); set PYTHON=…" >&2
    exit 2
}
if ! [ -x "$VENV/bin/python" ] || ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "creating the virtual environment $VENV"
    # Debian ships `venv` without `ensurepip` unless python3-venv is installed.
    if ! "$PYTHON" -m venv "$VENV" >/dev/null 2>&1; then
        rm -rf "$VENV"
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            echo "installing python3-venv, which Debian keeps apart from python3"
            log=$(mktemp)
            if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv; } >"$log" 2>&1; then
                tail -n 20 "$log" >&2
                echo "error: python3-venv must install, but apt-get failed; its last lines stand above" >&2
                exit 2
            fi
            rm -f "$log"
            "$PYTHON" -m venv "$VENV"
        else
            echo "error: Python's \`venv\` must work, but does not; run: sudo apt-get install python3-venv" >&2
            exit 2
        fi
    fi
fi
echo "installing the dependencies (about 5 GB with torch's CUDA build; once)"
# uv is several times faster than pip; where it cannot reach the index as configured for pip, pip does it.
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check uv
if [ -n "${UV_RESOLUTION:-}" ]; then # the lowest versions, which pip does not find
    "$VENV/bin/uv" pip install --quiet --compile-bytecode --python "$VENV/bin/python" -e '.[dev]'
else
    "$VENV/bin/uv" pip install --quiet --compile-bytecode --python "$VENV/bin/python" -e '.[dev]' 2>/dev/null ||
        "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -e '.[dev]'
fi
