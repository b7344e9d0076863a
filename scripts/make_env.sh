#!/usr/bin/env bash
# Create a virtual environment with this project in it, at pinned versions.
#
#   scripts/make_env.sh .venv-runtime demo 3.10 3.11 3.12 3.13
#   scripts/make_env.sh .venv workstation 3.12
#   scripts/make_env.sh .venv-calibration calibration 3.11 3.12
#
# Arguments: folder, extras of pyproject.toml, Python versions that will do, the best first
# (PYTHON=/path/to/python restricts the search to that one). Uses uv where it works, else venv and
# pip. Does nothing when the folder is already up to date.
set -euo pipefail
cd "$(dirname "$0")/.."
env=$1 extras=$2
shift 2

# Print "version path" of the first Python that will do. PYENV_VERSION lets pyenv's shims give a
# version that .python-version does not name; elsewhere it means nothing.
find_python() {
  for version in "$@"; do
    for candidate in ${PYTHON:-"python$version" python3 python}; do
      if found=$(PYENV_VERSION=$version "$candidate" -c \
        'import sys; print("%d.%d" % sys.version_info[:2], sys.executable)' 2>/dev/null) &&
        [ "${found%% *}" = "$version" ]; then
        echo "$found"
        return
      fi
    done
  done
}

uv_works() { uv --version >/dev/null 2>&1; }

found=$(find_python "$@")
version=${found%% *} python=${found#* }
if [ -z "$found" ]; then
  uv_works || { echo "no Python $* found; install one, or name it: make PYTHON=/path/to/python" >&2; exit 2; }
  version=${!#} python=${!#} # uv fetches it
fi

constraints=constraints/runtime-py312.txt
case $version in 3.10 | 3.11) constraints=constraints/runtime-py310.txt ;; esac
[ -f "constraints/$extras.txt" ] && constraints=constraints/$extras.txt
stamp="$env/.made-from"
wanted="$version $extras $(cat pyproject.toml "$constraints" | sha256sum | cut -d' ' -f1)"
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0

echo "setting up $env (Python $version, $extras)"
rm -rf "$env"
if uv_works; then
  uv venv --quiet --seed --python "$python" "$env"
  uv pip install --quiet --python "$env/bin/python" --constraint "$constraints" --editable ".[$extras]"
else
  "$python" -m venv "$env" || { echo "$python cannot make environments; on Debian: apt-get install python3-venv" >&2; exit 2; }
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$constraints" --editable ".[$extras]"
fi
echo "$wanted" >"$stamp"
