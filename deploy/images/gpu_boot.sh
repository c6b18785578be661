#!/bin/sh
# Puts the module that Triton starts kernels by where Triton looks for it: its cache, which must be writable for the kernels.
set -eu
mkdir -p "$TRITON_CACHE_DIR"
cp -R /opt/triton/. "$TRITON_CACHE_DIR"
exec /opt/apache/beam/boot "$@"
