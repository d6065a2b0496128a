# Sourced by the other scripts, from the project's root: makes .venv where it is not there, installs
# requirements.txt when it changed, and puts its Python first.  PYTHON names another interpreter.
install_changed() {  # requirements, what was installed last, a word on it: installs them if they changed
    if ! cmp -s "$1" "$2"; then
        echo "installing $1 into .venv${3:-}" >&2
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$1"
        cp "$1" "$2"
    fi
}

if [ ! -x .venv/bin/python ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "Python 3.11 or newer is needed; name one with PYTHON=/path/to/python3.11" >&2
        exit 2
    }
    echo "making .venv" >&2
    "${PYTHON:-python3}" -m venv .venv
fi
install_changed requirements.txt .venv/requirements.txt " (torch alone is some gigabytes)"
export PATH="$PWD/.venv/bin:$PATH"
command -v java >/dev/null || echo "note: there is no Java; METEOR is left out (a Java runtime brings it)" >&2
