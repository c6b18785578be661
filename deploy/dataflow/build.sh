#!/usr/bin/env bash
# Builds and pushes the images, and puts the templates' container specs into the bucket.
#
#   PROJECT=my-project REGION=europe-west1 BUCKET=my-bucket IMAGE=REGISTRY/my-project/nnsparse-stream-cpu:0.1.0 \
#       deploy/dataflow/build.sh [--print-only]
#
# With GPU_IMAGE, that one too. PYTHON names an interpreter that has this package; BUILDER is docker, or podman.
# --print-only writes the commands instead of running them.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${BUCKET:?the bucket that keeps the templates, without gs://}"
: "${IMAGE:?the name of the image, with its registry and tag}"
builder=${BUILDER:-docker}
python=${PYTHON:-python3}

print_only=
if [[ ${1:-} == --print-only ]]; then
    print_only=1
fi

run() {
    if [[ $print_only ]]; then
        printf '%q ' "$@"
        echo
    else
        "$@"
    fi
}

image() { # NAME TARGET
    run "$builder" build --file deploy/images/Dockerfile --target "$2" --tag "$1" \
        --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)" .
    run "$builder" push "$1"
}

image "$IMAGE" cpu
if [[ ${GPU_IMAGE:-} ]]; then
    image "$GPU_IMAGE" gpu
fi

specs=$(mktemp -d)
trap 'rm -r "$specs"' EXIT
for metadata in deploy/dataflow/templates/*.json; do
    command=$(basename "$metadata" .json)
    "$python" -m deploy.dataflow.metadata spec "$command" --image "$IMAGE" >"$specs/$command.json"
    run gcloud storage cp "$specs/$command.json" "gs://$BUCKET/templates/$command.json"
done
