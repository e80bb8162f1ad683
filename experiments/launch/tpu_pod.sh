#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU slice, over ssh.
#
#     bash experiments/launch/tpu_pod.sh create
#     bash experiments/launch/tpu_pod.sh install                          # after each change of the code
#     bash experiments/launch/tpu_pod.sh train --config.steps=20000       # the same command goes on where it stopped
#     bash experiments/launch/tpu_pod.sh stop                             # training saves and stops
#     bash experiments/launch/tpu_pod.sh delete
#
# gcloud must be signed in. `train` returns at once: training goes on in the background of each host, which writes to
# ~/semiseg.log; `tpu_pod.sh log` shows it as it grows. The service account of the slice must be able to write the bucket.
# shellcheck disable=SC2016  # what stands in single quotes is for the hosts
set -euo pipefail

PROJECT=${PROJECT:-my-project}
ZONE=${ZONE:-us-west4-a}
NAME=${NAME:-semiseg}
TYPE=${TYPE:-v5litepod-16}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}
BUCKET=${BUCKET:-my-bucket}
CONFIG=${CONFIG:-quickstart}
WORKDIR=${WORKDIR:-gs://$BUCKET/runs/$NAME}

place=(--project="$PROJECT" --zone="$ZONE")

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}" --worker=all --command="$1"
}

action=${1:-}
[ $# -gt 0 ] && shift
case $action in
  create)
    gcloud compute tpus tpu-vm create "$NAME" "${place[@]}" --accelerator-type="$TYPE" --version="$RUNTIME"
    ;;
  install)
    wheels=$(mktemp -d)
    trap 'rm -rf "$wheels"' EXIT
    python3 -m pip wheel -q --no-deps --wheel-dir="$wheels" "$(dirname "$0")/../.."
    gcloud compute tpus tpu-vm scp "$wheels"/semiseg_jax-*.whl "$NAME": "${place[@]}" --worker=all
    # Python 3.11 or later, which uv brings where the image has an older one.
    on_all_hosts 'pip install -q --user uv && ~/.local/bin/uv venv -q --clear --python 3.12 ~/semiseg &&
      ~/.local/bin/uv pip install -q --python ~/semiseg "jax[tpu]" "$(ls ~/semiseg_jax-*.whl)[gcs]"'
    ;;
  train)
    flags=$(printf ' %q' --config="$CONFIG" --workdir="$WORKDIR" "$@")
    on_all_hosts "nohup ~/semiseg/bin/semiseg train$flags >> ~/semiseg.log 2>&1 < /dev/null & echo \$! > ~/semiseg.pid"
    ;;
  log)
    gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}" --worker=0 --command='tail -n 100 -f ~/semiseg.log'
    ;;
  stop)
    on_all_hosts 'kill -TERM "$(cat ~/semiseg.pid)"'
    ;;
  delete)
    gcloud compute tpus tpu-vm delete "$NAME" "${place[@]}" --quiet
    ;;
  *)
    echo "usage: bash $0 create | install | train [flags of semiseg train] | log | stop | delete" >&2
    exit 2
    ;;
esac
