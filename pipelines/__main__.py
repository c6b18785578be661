"""`python -m pipelines` is `nnsparse-stream`."""

from pipelines.cli import console

console()
