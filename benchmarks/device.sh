#!/bin/bash
# For whoever has a GPU for a quarter of an hour, from the project's folder:
#
#   benchmarks/device.sh --encoder vgg19_normalised.safetensors --seconds 840
#
# Speed and agreement with the processor come first, in about two minutes, then the chapter's runs until the time is
# up. All is kept in _build/device and, if OUT is set, copied there; it goes on from what is in _build/device.
# `--rehearse` does all of it on a processor, in small, in about a minute. Without a network, put wheels of what Python
# lacks into _build/wheels before; the measurements do without them, the chapter's runs do not:
#
#   pip download --no-deps --only-binary :all: --python-version 3.12 --platform manylinux2014_x86_64 \
#     -d _build/wheels msgspec pyyaml threadpoolctl
set -e
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if [ -d _build/wheels ]; then
  "$python" -m pip install --quiet --no-index --no-deps --target _build/site _build/wheels/*.whl
fi
export PYTHONPATH=$PWD:$PWD/book:$PWD/benchmarks:$PWD/_build/site
status=0
"$python" benchmarks/device.py "$@" || status=$?
if [ -n "$OUT" ]; then cp -r _build/device/. "$OUT"; fi
exit $status
