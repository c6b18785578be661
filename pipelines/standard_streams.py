"""Standard output and error that are closed, or that nobody reads any more: a command does its work all the same."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


class OutputError(OSError):
    """Standard output or error cannot be written, and what is written from here on is thrown away."""


def open_standard_streams() -> None:
    """Gives this process three standard streams that can be used, whatever it was started with.

    Call it before anything is opened: a descriptor that is closed (`2>&-`) is given to the next file, and what a
    library writes to standard error would go into that.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _lead_nowhere(number)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    sys.stdout, sys.stderr = _Output.of(sys.stdout), _Output.of(sys.stderr)


class _Output(io.TextIOWrapper):
    """Text that is thrown away from the moment on in which its reader has gone (`| head`)."""

    @classmethod
    def of(cls, stream: TextIO) -> _Output:
        """The same stream, taken over."""
        assert isinstance(stream, io.TextIOWrapper)
        encoding, errors = stream.encoding, stream.errors
        by_line, at_once = stream.line_buffering, stream.write_through
        return cls(stream.detach(), encoding=encoding, errors=errors, line_buffering=by_line, write_through=at_once)

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._lost(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        """Raises an OutputError but where the reader has gone; what still waits must not be tried again at exit."""
        _lead_nowhere(self.fileno())
        if not isinstance(error, BrokenPipeError):
            raise OutputError(error.errno, f"{self.name} cannot be written: {error.strerror}") from error


def _lead_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
    os.set_inheritable(descriptor, True)
