"""The errors that are nobody's mistake in the program: the user's input or flags are at fault, or the store is."""

from __future__ import annotations


class InputError(ValueError):
    """The user's input or flags are at fault; commands print its message and exit with code 2.

    The message is one line: what was wrong, in which file, line or record, and what to do. It names a field of what was
    asked for in backquotes (`duplicates`); a command shows that as its flag (--duplicates), Beam YAML as it is.
    """


class StoreError(RuntimeError):
    """A store, the network or a disk failed, and the same command may succeed later; commands exit with code 1.

    The message is one line, as an `InputError`'s.
    """
