"""Why a Parquet file could not be read: damage is one reason of several."""

from __future__ import annotations

import pyarrow as pa

from nnsparse_stream.errors import InputError, StoreError
from nnsparse_stream.storage.files import one_line


def parquet_failure(url: str, error: Exception, damage: str) -> Exception:
    """The error for a Parquet file that Arrow could not read: damaged only where nothing else is known to be wrong."""
    reason = one_line(error)
    if isinstance(error, pa.ArrowNotImplementedError):
        return InputError(f"{url}: it is written in a way that is not read here ({reason}); write it in another way")
    if isinstance(error, MemoryError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        return StoreError(f"{url}: cannot be read: {reason}; run it again later")
    if not isinstance(error, (pa.ArrowInvalid, OSError)):
        return error
    return InputError(f"{url}{damage} ({reason}); fetch the file again")
