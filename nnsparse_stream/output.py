"""Output directories of which a reader never sees a half."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection
from typing import Any

from nnsparse_stream.errors import InputError
from nnsparse_stream.storage import exists, filesystem, join, one_line, read_json, reading, to_json, write_file

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp$")
_MARKER = "_unfinished.json"
#: Every file that completes an output of ours is a JSON object whose "kind" starts with this.
_OUR_KIND = "nnsparse-stream "


class OutputDirectory:
    """One run's output as a transaction: `check`, `begin`, write files, then `complete` or `abort`.

    While the work goes on, the directory holds the marker `_unfinished.json`. The completing file is written last, so a
    directory that holds it is whole. A leftover of a killed run has the marker and is cleaned by the next `begin`.
    Two runs must not write to the same directory at the same time.

    Args:
        url: the directory.
        contents: patterns of the files that the run writes, relative to the directory, beside the completing file; "*"
            stands for any characters, "/" among them. Any other file found there, at any depth, is not ours: the
            directory is refused, and nothing in it is deleted.
        completing: name of the file that makes the output whole: a JSON object whose "kind" starts with
            "nnsparse-stream ".
        overwrite: whether a whole output may be replaced.
    """

    def __init__(
        self, url: str, *, contents: Collection[str], completing: str = "manifest.json", overwrite: bool = False
    ) -> None:
        self.url = url
        self._completing = completing
        self._ours = (*contents, completing, _MARKER)
        self._overwrite = overwrite
        self._made_by_us = False

    def state(self) -> str:
        """What lies there: "empty", "unfinished" (a run that was killed, or that goes on) or "complete".

        Raises:
            InputError: a file, or a directory that holds something that is not ours, or it cannot be read.
        """
        fs, path = filesystem(self.url)
        with reading(self.url):
            if not fs.exists(path):
                return "empty"
            if fs.isfile(path):
                raise InputError(f"{self.url} is a file where an output directory is meant; name another --output")
            names = {_final_name(name) for name in _files(fs, path)}
            if not names:
                return "empty"
        foreign = sorted(name for name in names if not self._is_ours(name))
        if foreign or not names & {self._completing, _MARKER}:
            example = (foreign or sorted(names))[0]
            raise InputError(
                f"{self.url} holds files that are not of an earlier output ({example}); name an empty or new directory"
            )
        if _MARKER in names:
            return "unfinished"  # also where the completing file is there: the run was killed before its last step
        kind = read_json(join(self.url, self._completing), "the last file of an output").get("kind")
        if not str(kind).startswith(_OUR_KIND):
            raise InputError(
                f"{self.url} holds a {self._completing} that is not of nnsparse-stream; name an empty or new directory"
            )
        return "complete"

    def check(self) -> None:
        """Checks, before any work and without a change, that `begin` may go on.

        Raises:
            InputError: what `state` raises; or a whole output lies there and `overwrite` is False.
        """
        if self.state() == "complete" and not self._overwrite:
            raise InputError(f"{self.url} exists already; pass --overwrite to replace it, or name another --output")

    def begin(self, resume: bool = False) -> None:
        """Makes the directory, cleans it, and marks it as unfinished. Call it when the inputs have been checked.

        Args:
            resume: keep what lies there, but for the completing file.

        Raises:
            InputError: what `check` raises, or the directory cannot be written.
        """
        self.check()
        fs, path = filesystem(self.url)
        state = self.state()
        self._made_by_us = state != "empty" or not fs.exists(path)
        try:
            write_file(join(self.url, _MARKER), to_json({"kind": _OUR_KIND + "unfinished output"}))
            if not resume:
                self._remove_contents()
            elif exists(join(self.url, self._completing)):
                self.remove(self._completing)
        except Exception as error:  # every store's client has exceptions of its own
            raise InputError(f"{self.url}: the output cannot be written: {one_line(error)}") from error

    def write(self, name: str, data: bytes) -> None:
        """Writes one file, whole; `name` is relative to the directory."""
        write_file(join(self.url, name), data)

    def remove(self, name: str) -> None:
        """Removes one file that was written on the way; `name` is relative to the directory."""
        fs, path = filesystem(join(self.url, name))
        fs.rm_file(path)

    def remove_matching(self, pattern: str) -> None:
        """Removes what was written on the way under names that match, as do those in `contents`, and emptied folders.

        What a worker that was killed has left of such a file goes too.
        """
        fs, path = filesystem(self.url)
        _remove(fs, path, [name for name in _files(fs, path) if fnmatch.fnmatchcase(_final_name(name), pattern)])

    def complete(self, data: bytes) -> None:
        """Writes the completing file and takes the marker away: from here on the output is whole."""
        fs, path = filesystem(self.url)
        for name in _files(fs, path):
            if _final_name(name) != name:  # a worker was killed while it wrote, and another wrote the file
                fs.rm_file(join(path, name))
        self.write(self._completing, data)
        fs.rm_file(join(path, _MARKER))

    def abort(self) -> None:
        """Removes all that was written, and the directory itself where a run of ours made it."""
        self._remove_contents()
        fs, path = filesystem(self.url)
        if fs.exists(join(path, _MARKER)):
            fs.rm_file(join(path, _MARKER))
        if self._made_by_us and fs.isdir(path) and not fs.ls(path):
            fs.rmdir(path)

    def _remove_contents(self) -> None:
        """Removes the completing file first: what remains of a removal that is cut off is not taken for whole."""
        fs, path = filesystem(self.url)
        if not fs.isdir(path):
            return
        ours = [name for name in _files(fs, path) if name != _MARKER and self._is_ours(_final_name(name))]
        _remove(fs, path, sorted(ours, key=lambda name: (name != self._completing, name)))

    def _is_ours(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self._ours)


def _files(fs: Any, path: str) -> list[str]:
    """All files below a directory, relative to it."""
    prefix = path.rstrip("/") + "/"
    return [name[len(prefix) :] for name in fs.find(path) if name.startswith(prefix)]


def _remove(fs: Any, path: str, names: list[str]) -> None:
    """Removes files, given relative to a directory, in this order, and then the folders in it that are empty."""
    for name in names:
        fs.rm_file(join(path, name))
    parents = {name[:end] for name in names for end in range(len(name)) if name[end] == "/"}
    for parent in sorted(parents, reverse=True):
        if fs.isdir(join(path, parent)) and not fs.ls(join(path, parent)):
            fs.rmdir(join(path, parent))


def _final_name(name: str) -> str:
    """The name that a file is to have: a killed run can leave a temporary name behind."""
    return _TEMPORARY.sub("", name)
