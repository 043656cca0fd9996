#!/usr/bin/env bash
# A study on a Ray cluster that is up: `ray start --head --port 6379` on the first host and
# `ray start --address HOST:6379` on the others, each with pip install 'ncamix[ray]'.
#   OUT=/shared/study ./ray.sh mixed_bands.yaml
# ON=ray://HOST:10001 where this machine is not of the cluster.
set -euo pipefail
exec ncamix study "$@" --on "${ON:-ray}" --out "${OUT:?the folder of the study, which all hosts see}"
