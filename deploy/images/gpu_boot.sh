#!/bin/sh
# Puts the module that Triton starts kernels by where Triton looks for it: its cache, which must be writable for the kernels.
# Then becomes Beam's boot with the flags given, or the command given.
set -eu
mkdir -p "$TRITON_CACHE_DIR"
cp -R /opt/triton/. "$TRITON_CACHE_DIR"
case ${1--} in
    -*) set -- /opt/apache/beam/boot "$@" ;;
esac
exec "$@"
