"""Output directories of which a reader never sees a half."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection

from nnsparse_stream.errors import InputError, StoreError
from nnsparse_stream.storage.files import (
    check_regular,
    exists,
    info,
    is_directory,
    join,
    list_files,
    one_line,
    read_json,
    remove_empty_directory,
    remove_file,
    to_json,
    write_file,
)

_LOGGER = logging.getLogger(__name__)

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp$")
_MARKER = "_unfinished.json"
#: Every file that completes an output of ours is a JSON object whose "kind" starts with this.
_OUR_KIND = "nnsparse-stream "


class OutputDirectory:
    """One run's output as a transaction: `check`, `begin`, write files, then `complete` or `abort`.

    While the work goes on, the directory holds the marker `_unfinished.json`. The completing file is written last, so a
    directory that holds it is whole. A leftover of a killed run has the marker and is cleaned by the next `begin`.
    Two runs must not write to the same directory at the same time.

    An engine may make a part of a job again, that which calls `begin` among them: with the same `job`, a later attempt
    takes up what the earlier ones have written, whatever `overwrite` says; another job's leftover is still cleaned.

    Args:
        url: the directory.
        contents: patterns of the files that the run writes, relative to the directory, beside the completing file; "#"
            stands for a number, "*" for any characters but "/". Any other file found there, at any depth, is not ours:
            the directory is refused, and nothing in it is deleted.
        completing: name of the file that makes the output whole: a JSON object whose "kind" starts with
            "nnsparse-stream ".
        overwrite: whether a whole output may be replaced.
        job: names the job that this is an attempt of; None where nobody but the caller makes attempts.
        beside: patterns of files that somebody else writes there at the same time: they are let be.
    """

    def __init__(
        self,
        url: str,
        *,
        contents: Collection[str],
        completing: str = "manifest.json",
        overwrite: bool = False,
        job: str | None = None,
        beside: Collection[str] = (),
    ) -> None:
        self.url = url
        self._job = job
        self._beside = [_pattern(name) for name in beside]
        self._completing = completing
        self._ours = [_pattern(name) for name in (*contents, completing, _MARKER)]
        self._overwrite = overwrite
        self._made_by_us = False

    def state(self) -> str:
        """What lies there: "empty", "unfinished" (a run that was killed, or that goes on) or "complete".

        Raises:
            InputError: a file, or a directory that holds something that is not ours, or it cannot be read.
        """
        found = info(self.url)
        if found is None:
            return "empty"
        if found["type"] != "directory":
            raise InputError(f"{self.url} is a file where an output directory is meant; name another `output`")
        names = {_final_name(name) for name in self._names()}
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
        check_regular(join(self.url, self._completing))
        kind = read_json(join(self.url, self._completing), "the last file of an output").get("kind")
        if not str(kind).startswith(_OUR_KIND):
            raise InputError(
                f"{self.url} holds a {self._completing} that is not of nnsparse-stream; name an empty or new directory"
            )
        return "complete"

    def attempted(self) -> bool:
        """Whether what lies there, unfinished or complete, is the work of an earlier attempt of this job."""
        if self._job is None:
            return False
        for name in (_MARKER, self._completing):
            url = join(self.url, name)
            if exists(url):
                return read_json(url, "a file of an output").get("job") == self._job
        return False

    def check(self) -> None:
        """Checks, before any work and without a change, that `begin` may go on.

        Raises:
            InputError: what `state` raises; or a whole output lies there and `overwrite` is False.
        """
        if self.state() == "complete" and not self._overwrite and not self.attempted():
            raise InputError(f"{self.url} exists already; pass `overwrite` to replace it, or name another `output`")

    def begin(self, resume: bool = False) -> None:
        """Makes the directory, cleans it, and marks it as unfinished. Call it when the inputs have been checked.

        What an earlier attempt of the same job has written stays.

        Args:
            resume: keep what lies there, but for the completing file.

        Raises:
            InputError: what `check` raises, or the directory cannot be written.
        """
        self.check()
        state, attempted = self.state(), self.attempted()
        if attempted and state == "complete":
            return
        self._made_by_us = state != "empty" or not exists(self.url)
        cleaned = state != "empty" and not (resume or attempted)
        try:
            # An attempt that ends while it cleans leaves no job's marker: the next one cleans what remains.
            self._mark(None if cleaned else self._job)
            if cleaned:
                self._remove_contents()
                if self._job is not None:
                    self._mark(self._job)
            elif exists(join(self.url, self._completing)):
                self.remove(self._completing)
        except InputError:
            raise
        except OSError as error:
            raise InputError(f"{self.url}: the output cannot be written: {one_line(error)}") from error

    def _mark(self, job: str | None) -> None:
        named = {} if job is None else {"job": job}
        write_file(join(self.url, _MARKER), to_json({"kind": _OUR_KIND + "unfinished output", **named}))

    def write(self, name: str, data: bytes) -> None:
        """Writes one file, whole; `name` is relative to the directory."""
        write_file(join(self.url, name), data)

    def remove(self, name: str) -> None:
        """Removes one file that was written on the way; `name` is relative to the directory."""
        remove_file(join(self.url, name))

    def remove_matching(self, pattern: str) -> None:
        """Removes what was written on the way under names that match, as do those in `contents`, and emptied folders.

        What a worker that was killed has left of such a file goes too.
        """
        wanted = _pattern(pattern)
        _remove(self.url, [name for name in list_files(self.url) if wanted.fullmatch(_final_name(name))])

    def complete(self, data: bytes) -> None:
        """Writes the completing file and takes the marker away: from here on the output is whole."""
        for name in self._names():
            # A worker was killed while it wrote, and another wrote the file.
            if _final_name(name) != name and self._is_ours(_final_name(name)):
                self.remove(name)
        self.write(self._completing, data)
        self.remove(_MARKER)

    def abort(self) -> None:
        """Removes all that was written, and the directory itself where a run of ours made it.

        Where the storage refuses that too, a warning says so: the marker goes last, so what remains is a leftover.
        """
        try:
            self._remove_contents()
            if exists(join(self.url, _MARKER)):
                self.remove(_MARKER)
            if self._made_by_us:
                remove_empty_directory(self.url)
        except (InputError, StoreError, OSError) as error:
            _LOGGER.warning(
                "what was written is not removed, the next run with this `output` will: %s", one_line(error)
            )

    def _remove_contents(self) -> None:
        """Removes the completing file first: what remains of a removal that is cut off is not taken for whole."""
        if not is_directory(self.url):
            return
        ours = [name for name in self._names() if name != _MARKER and self._is_ours(_final_name(name))]
        _remove(self.url, sorted(ours, key=lambda name: (name != self._completing, name)))

    def _names(self) -> list[str]:
        """The files that lie there, but for those of somebody else."""
        return [name for name in list_files(self.url) if not _matches(_final_name(name), self._beside)]

    def _is_ours(self, name: str) -> bool:
        return _matches(name, self._ours)


def nested(folder: str, contents: Collection[str], completing: str = "manifest.json") -> tuple[str, ...]:
    """Patterns of all files of an output that lies in a folder of another one, for that one's `contents`."""
    return tuple(join(folder, name) for name in (*contents, completing, _MARKER))


def _pattern(text: str) -> re.Pattern[str]:
    parts = {"#": "[0-9]+", "*": "[^/]*"}
    return re.compile("".join(parts.get(part, re.escape(part)) for part in re.split("([#*])", text)), re.DOTALL)


def _matches(name: str, patterns: Collection[re.Pattern[str]]) -> bool:
    return any(pattern.fullmatch(name) for pattern in patterns)


def _remove(url: str, names: list[str]) -> None:
    """Removes files, given relative to a directory, in this order, and then the folders in it that are empty."""
    for name in names:
        remove_file(join(url, name))
    parents = {name[:end] for name in names for end in range(len(name)) if name[end] == "/"}
    for parent in sorted(parents, reverse=True):
        remove_empty_directory(join(url, parent))


def _final_name(name: str) -> str:
    """The name that a file is to have: a killed run can leave a temporary name behind."""
    return _TEMPORARY.sub("", name)
