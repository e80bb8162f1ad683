#!/usr/bin/env bash
# Trains on several GPU nodes under Slurm: one task a node, which uses all its GPUs.
#
#     sbatch experiments/launch/slurm.sh --config.steps=20000
#
# What stands behind the script's name goes to `semiseg train`. The nodes share the disk of the workdir and of the data.
# Five minutes before its time is up the job hears SIGTERM, saves, and queues again; so it does where it is preempted.
#SBATCH --job-name=semiseg
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -uo pipefail

CONFIG=${CONFIG:-quickstart}
WORKDIR=${WORKDIR:-runs/slurm}
VENV=${VENV:-.venv}  # of semiseg_jax, on the shared disk

# shellcheck source=/dev/null
source "$VENV/bin/activate"
srun --kill-on-bad-exit=1 semiseg train --config="$CONFIG" --workdir="$WORKDIR" "$@"
code=$?
# 143 says: stopped by SIGTERM, saved. A job that was cancelled, or that Slurm queues again itself, no longer runs.
if [ "$code" -eq 143 ] && [ "$(squeue --noheader --format=%T --job="$SLURM_JOB_ID")" = RUNNING ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
