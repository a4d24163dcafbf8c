#!/bin/bash
# Ray on the nodes of a SLURM job, and one command on it:
#
#   export JEPAWM_HOME=/shared/jepawm
#   sbatch docs/clusters/slurm.sh                                        trains the demo, one worker a node
#   sbatch --nodes=4 docs/clusters/slurm.sh jepawm train --recipe pusht --scaling.num-workers 4
#
# Submit it from an environment in which jepawm is installed. A job that was stopped continues when it is submitted
# again.
#SBATCH --job-name=jepawm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --time=04:00:00
#SBATCH --requeue
# `ray symmetric-run` ends with `ray stop`, which stops every Ray of this user on a node: a node belongs to one job.
#SBATCH --exclusive
set -euo pipefail

: "${JEPAWM_HOME:?set it to a folder on the file system that all nodes share}"
export JEPAWM_HOME
export JEPAWM_CACHE=${JEPAWM_CACHE:-${TMPDIR:-/tmp}/jepawm-$USER}
[ $# -gt 0 ] || set -- jepawm train --scaling.num-workers "$SLURM_JOB_NUM_NODES"

# A token of this job's own, in a file that only its user can read: other users of these nodes cannot use its Ray.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_ENABLE_UV_RUN_RUNTIME_ENV=0
export RAY_AUTH_TOKEN_PATH=$JEPAWM_HOME/.ray_auth_token-$SLURM_JOB_ID
mkdir -p "$JEPAWM_HOME"
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32))' > "$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

# A folder of this job's own: /tmp/ray may belong to another user. With `--temp-dir` instead, `ray symmetric-run` would not
# find the cluster that it has started.
export RAY_TMPDIR=/tmp/ray-$SLURM_JOB_ID

# Nodes start at different times; Ray's own limit is 30 s.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
# Without name resolution, which gives some hosts a loopback address for their own name.
addresses=$(srun --nodes=1 --ntasks=1 --nodelist="${nodes%%$'\n'*}" hostname --all-ip-addresses)
head_ip=${addresses%% *}
address=$head_ip:$((20000 + SLURM_JOB_ID % 10000))

# The same command on every node: the one whose address it is becomes the head and runs what stands behind `--`.
srun ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" \
  -- env RAY_ADDRESS="$address" "$@"
