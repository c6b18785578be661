"""Flink on Kubernetes: manifests, and the program that stops a stream with a savepoint."""
