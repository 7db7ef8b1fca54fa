#!/usr/bin/env bash
# The suite with another Python and TensorFlow than this machine's own, in a fresh environment:
#
#   tests/versions.sh PYTHON TENSORFLOW [ENVIRONMENT] [pytest's arguments ...]
#   tests/versions.sh python3.10 2.16.2
#   tests/versions.sh python3.13 2.21.0 /tmp/newest -k sample
#
# ENVIRONMENT is a directory to be made, which stays; without one, it is temporary.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"

if [ $# -lt 2 ]; then
    sed -n 's/^#   *//p' "$0" >&2
    exit 2
fi
python=$1 tensorflow=$2
environment=${3:-}
shift $(($# < 3 ? $# : 3))

if [ -z "$environment" ]; then
    environment=$(mktemp -d)
    trap 'rm -rf "$environment"' EXIT
elif ! mkdir "$environment"; then      # what is there already would not be fresh
    exit 2
fi
environment=$(cd "$environment" && pwd)

"$python" -m venv "$environment"
"$environment/bin/pip" install -q -r "$root/requirements-test.txt" "tensorflow==$tensorflow"
"$environment/bin/python" --version
"$environment/bin/pip" list --format=freeze | grep -E '^(tensorflow|keras|numpy|protobuf|ml[-_]dtypes)=='
cd "$root"
"$environment/bin/python" -m pytest "$@"
