"""The one error that means: the input or the flags are at fault, not the program."""

from __future__ import annotations


class InputError(ValueError):
    """The user's input or flags are at fault; commands print its message and exit with code 2.

    The message is one line: what was wrong, in which file, line or record, and what to do. It names a field of what was
    asked for in backquotes (`duplicates`); a command shows that as its flag (--duplicates), Beam YAML as it is.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class StoreError(RuntimeError):
    """A store, the network or a disk failed, and the same command may succeed later; commands exit with code 1.

    The message is one line, as an `InputError`'s.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """A text that any file or connection takes: a file's name may hold bytes that are no UTF-8, shown as \\udcXX."""
    return text.encode(errors="backslashreplace").decode()
