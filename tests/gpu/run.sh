#!/usr/bin/env bash
# Checks of what only a GPU can show, in at most ten minutes, on one GPU without a network.
#   tests/gpu/run.sh [--tiny] [OUT.json]
# It needs a Python with torch. What else it needs comes from the folder of wheels $WHEELS, if that
# is given, else from pip's index, into a virtual environment that sees the machine's torch. With
# --tiny it runs the same with tiny shapes, on a CPU too. OUT.json is $OUT/gpu.json by default.
set -euo pipefail
cd "$(dirname "$0")/../.."
tiny=()
if [[ "${1:-}" == --tiny ]]; then
  tiny=(--tiny)
  shift
fi
out="${1:-${OUT:-.}/gpu.json}"
python="${PYTHON:-python3}"
needed="accelerate, deepspeed, filelock, fsspec, jinja2, peft, psutil, pyarrow, pydantic, pynvml"
needed+=", rapidfuzz, torch, transformers, yaml"
if ! "$python" -c "import $needed" 2>/dev/null; then
  venv="${VENV:-$(mktemp -d)/venv}"
  "$python" -m venv --system-site-packages "$venv"
  python="$venv/bin/python"
  from=()
  if [[ -n "${WHEELS:-}" ]]; then
    from=(--no-index --find-links "$WHEELS")
  fi
  "$python" -m pip install --quiet "${from[@]}" -c <(grep -v '^torch' constraints/gpu.txt) \
    accelerate deepspeed filelock fsspec jinja2 nvidia-ml-py peft psutil pyarrow pydantic pyyaml \
    rapidfuzz transformers
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=false
exec "$python" -m tests.gpu --out "$out" "${tiny[@]}"
