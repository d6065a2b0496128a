# Sourced by the other scripts, from the project's root: creates .venv if it does not exist, installs
# requirements.txt if it changed, and puts .venv/bin first on the PATH.  PYTHON names another interpreter.
# WITHOUT_JAVA=1 is set by scripts that score nothing.
install_changed() {  # requirements, copy of those installed last, note, pip's flags...: installs them if they changed
    if ! cmp -s "$1" "$2"; then
        echo "installing what .venv lacks of $1${3:-}" >&2
        .venv/bin/python -m pip install --quiet --disable-pip-version-check "${@:4}" -r "$1"
        cp "$1" "$2"
    fi
}

if [ ! -x .venv/bin/python ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "Python 3.11 or newer is needed; name one with PYTHON=/path/to/python3.11" >&2
        exit 2
    }
    echo "creating .venv" >&2
    "${PYTHON:-python3}" -m venv .venv
fi
install_changed requirements.txt .venv/requirements.txt " (torch alone is several gigabytes)"
export PATH="$PWD/.venv/bin:$PATH"
[ -n "${WITHOUT_JAVA:-}" ] || command -v java >/dev/null || echo "note: there is no Java, so METEOR is left out; install a Java runtime to get it" >&2
