#!/usr/bin/env bash
# One run over several nodes by Composer's launcher: on each node, with its NODE from 0.
#   NODES=2 NODE=0 RANKS=8 HEAD=node1:29500 OUT=/shared/run ./composer.sh code_target --trainer gpu
# NODES: how many; RANKS: processes a node, one a GPU; HEAD: a port of the first node, free there;
# OUT: the run's folder, which all nodes see. The rest is as for `ncamix run`.
set -euo pipefail
head=${HEAD:-localhost:29500}
exec composer --nproc "${RANKS:-1}" --world_size "$((${NODES:-1} * ${RANKS:-1}))" \
    --node_rank "${NODE:-0}" --master_addr "${head%:*}" --master_port "${head##*:}" \
    -m ncamix run "$@" --out "${OUT:?the folder of the run, which all nodes see}"
