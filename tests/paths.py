"""The backends that take tensors of the CPU, so that tests can hold each against one reference."""

from __future__ import annotations

from nnsparse_stream.kernels.backends import using as path

PATHS = ("cpu", "reference")

__all__ = ["PATHS", "path"]
