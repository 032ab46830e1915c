#!/bin/sh
# All that one visit to a GPU needs, in less than 9 minutes: see device.py.
#     PYTHON=python benchmarks/device.sh [--cpu] [--scale SHARE] [--seconds BUDGET]
cd "$(dirname "$0")/.." || exit
# not -m, with which the processes of peers would import the module, and with it JAX
main='import sys; from benchmarks.device import main; sys.exit(main())'
exec timeout -k 10 530 "${PYTHON:-python}" -c "$main" "$@"
