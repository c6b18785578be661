"""The two code paths of the kernels and optimisers, so that tests can hold both against one reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

PATHS = ("compiled", "torch")


@contextmanager
def path(name: str) -> Iterator[None]:
    """Takes "compiled" kernels (as on the CPU), or "torch" operations (as on a GPU), on the CPU."""
    with ExitStack() as patches:
        if name == "torch":
            modules = ("kernels.operations", "kernels.row_gradient", "kernels.sampled", "nn.optimisers", "nn.ranking")
            for module in modules:
                patches.enter_context(mock.patch(f"nnsparse_stream.{module}.is_compiled", return_value=False))
        yield
