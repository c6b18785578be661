#!/usr/bin/env bash
# Launches a command as a job of Dataflow, by its flex template.
#
#   PROJECT=my-project REGION=europe-west1 BUCKET=my-bucket IMAGE=REGISTRY/my-project/nnsparse-stream-cpu:0.1.0 \
#       deploy/dataflow/run.sh [--print-only] [--gpu] COMMAND FLAG=VALUE ...
#
#   deploy/dataflow/run.sh prepare input='gs://my-bucket/logs/*.parquet' output=gs://my-bucket/data axis=user
#   deploy/dataflow/run.sh --gpu train data=gs://my-bucket/data output=gs://my-bucket/run
#   deploy/dataflow/run.sh stream source=kafka://broker:9092/ratings data=gs://my-bucket/data ...
#
# Flags are the command's own, without dashes; a switch is FLAG=true. --print-only writes the command of gcloud instead of
# running it. Also read: JOB (the job's name), MAX_WORKERS, MACHINE (type of the workers), SERVICE_ACCOUNT (of the workers
# and the launcher), SUBNETWORK, GPU_IMAGE and GPU (type and count, as nvidia-l4;count:1), GPU_MACHINE (for streams), MIN_RAM.
set -euo pipefail
: "${PROJECT:?the project that the job runs in}"
: "${REGION:?the region that the job runs in}"
: "${BUCKET:?the bucket that keeps the templates, without gs://}"
: "${IMAGE:?the name of the image, with its registry and tag}"

print_only='' gpu=''
while [[ ${1:-} == --* ]]; do
    case $1 in
    --print-only) print_only=1 ;;
    --gpu) gpu=1 ;;
    *)
        echo "run.sh: there is no $1" >&2
        exit 2
        ;;
    esac
    shift
done
command=${1:-}
if [[ ! -f $(dirname "$0")/templates/$command.json ]]; then
    echo "run.sh: there is no template of ${command:-no command}" >&2
    exit 2
fi
shift

if [[ $gpu && ! $command =~ ^(train|score|evaluate|blend|stream)$ ]]; then
    echo "run.sh: $command runs no model, and takes no --gpu" >&2
    exit 2
fi
image=$IMAGE
more=()
if [[ $gpu ]]; then
    image=${GPU_IMAGE:?the name of the image with CUDA, with its registry and tag}
    accelerator="type:${GPU:-nvidia-l4;count:1};install-nvidia-driver"
    # One process for each worker, whose threads share one copy of the model on the GPU.
    more+=("--additional-experiments=no_use_multiple_sdk_containers")
fi
parameters="command=$command~sdk_container_image=$image"
if [[ $gpu && $command == stream ]]; then
    # Streaming jobs know no right fitting: every worker has the GPU.
    parameters+="~dataflow_service_options=worker_accelerator=$accelerator"
    MACHINE=${GPU_MACHINE:-g2-standard-8}
elif [[ $gpu ]]; then
    parameters+="~accelerator=$accelerator~min_ram=${MIN_RAM:-16GB}"
fi
for flag in "$@"; do
    if [[ $flag != [a-z]*=* || $flag == *"~"* ]]; then
        echo "run.sh: $flag is not FLAG=VALUE, or holds a ~" >&2
        exit 2
    fi
    parameters+="~$flag"
done
if [[ $command == stream ]]; then
    more+=(--enable-streaming-engine)
fi

words=(
    gcloud dataflow flex-template run "${JOB:-nnsparse-stream-$command-$(date -u +%Y%m%d-%H%M%S)}"
    "--project=$PROJECT" "--region=$REGION"
    "--template-file-gcs-location=gs://$BUCKET/templates/$command.json"
    "--staging-location=gs://$BUCKET/staging" "--temp-location=gs://$BUCKET/temp"
    "--max-workers=${MAX_WORKERS:-20}"
    ${MACHINE:+"--worker-machine-type=$MACHINE"}
    ${SERVICE_ACCOUNT:+"--service-account-email=$SERVICE_ACCOUNT"}
    ${SUBNETWORK:+"--subnetwork=$SUBNETWORK" --disable-public-ips}
    ${more[@]+"${more[@]}"}
    "--parameters=^~^$parameters"
)
if [[ $print_only ]]; then
    printf '%q ' "${words[@]}"
    echo
else
    exec "${words[@]}"
fi
