"""`python -m nnsparse_stream.pipelines` is `nnsparse-stream`."""

from nnsparse_stream.pipelines.cli import console

console()
