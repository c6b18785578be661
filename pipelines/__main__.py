"""`python -m pipelines` is `nnsparse-stream`."""

from nnsparse_stream.pipelines.cli import console

console()
