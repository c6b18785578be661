"""Which backend serves a GPU, shown on the CPU."""

from __future__ import annotations

import pytest
import torch

from nnsparse_stream.kernels.backends import gpu_backend, using


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_where_triton_cannot_start_kernels_it_is_said_and_torch_operations_serve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As without a C compiler: here Triton finds no driver of a GPU, once torch says that there is one."""
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpu_backend.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="triton cannot start kernels on this GPU, torch operations serve"):
            found = gpu_backend()
        assert isinstance(found, str)
        with pytest.raises(ImportError, match="there is no backend gpu: triton cannot start kernels"), using("gpu"):
            pass
    finally:
        gpu_backend.cache_clear()
