#!/usr/bin/env bash
# One run over several nodes by torchrun: the same command on each node.
#   NODES=2 RANKS=8 HEAD=node1:29500 OUT=/shared/run ./torchrun.sh code_target --trainer gpu
# NODES: how many; RANKS: processes a node, one a GPU; HEAD: a port of the first node, free there;
# OUT: the run's folder, which all nodes see. The rest is as for `ncamix run`.
set -euo pipefail
exec torchrun --nnodes "${NODES:-1}" --nproc-per-node "${RANKS:-1}" \
    --rdzv-backend c10d --rdzv-endpoint "${HEAD:-localhost:29500}" \
    -m ncamix run "$@" --out "${OUT:?the folder of the run, which all nodes see}"
