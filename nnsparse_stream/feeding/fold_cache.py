"""Where a training fold stays after the first epoch: in the training device's memory, in the host's, or nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.errors import InputError

#: The training device's memory, the host's, or none: it is read in every epoch.
PLACES = ("device", "host", "none")
#: The share of the memory that is free when the run begins which a fold may take unasked; training takes some, too.
SHARE = 0.5


def cached_bytes(manifest: Manifest) -> int:
    """What a training fold takes in memory: 8 bytes an entry."""
    return 8 * manifest.fold_entries["train"]


def choose_cache(wanted: str | None, size: int, device: torch.device, reserved: int = 0) -> tuple[str, str]:
    """Where a training fold is to stay: on a GPU if it fits there, else on the host if it fits there, else nowhere.

    It fits where it takes no more than `SHARE` of the memory that is free.

    Args:
        wanted: one of `PLACES`, whether it fits or not; None: what fits.
        size: bytes of the fold.
        device: the training device, with the model on it.
        reserved: bytes that training will take there and has not yet: the optimiser's state.

    Returns:
        One of `PLACES`, and what is to be told of it.

    Raises:
        InputError: it is larger than all the memory that is free where it is wanted.
    """
    on_gpu = device.type == "cuda"
    free = {"host": free_memory(Path("/"))}
    if on_gpu:
        free["device"] = max(torch.cuda.mem_get_info(device)[0] - reserved, 0)
    else:
        free["host"] = free["device"] = None if free["host"] is None else max(free["host"] - reserved, 0)
    places = ("device", "host") if on_gpu else ("host",)
    fitting = (place for place in places if (room := free[place]) is not None and size <= SHARE * room)
    place = wanted or next(fitting, "none")
    if place == "none":
        why = "" if wanted or free["host"] is None else f", since it takes more than {SHARE:.0%} of the free memory"
        return place, f"read in every epoch{why}"
    room, memory = free[place], "the GPU's memory" if on_gpu and place == "device" else "memory"
    if room is not None and size > room:
        raise InputError(
            f"`cache` {place}: the training fold takes {size / 1e6:,.0f} MB, and {room / 1e6:,.0f} MB of {memory} are "
            "free; leave out `cache`"
        )
    return place, f"stays in {memory}" + ("" if room is None else f", of which {room / 1e6:,.0f} MB are free")


def free_memory(root: Path) -> int | None:
    """Bytes of memory that this process may still take, by Linux and by the control groups that it is in.

    Args:
        root: "/", where `proc` and `sys` are.

    Returns:
        None on another system, which does not say so.
    """
    meminfo = root / "proc/meminfo"
    if not meminfo.exists():
        return None
    kilobytes = int(meminfo.read_text().split("MemAvailable:")[1].split()[0])
    return max(0, min([kilobytes * 1024, *_left_by_groups(root)]))


def _left_by_groups(root: Path) -> Iterator[int]:
    """What each control group with a limit leaves: of version 2 (memory.max), or 1 (memory.limit_in_bytes)."""
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, limit, usage, cache = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, limit, usage = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        # A group's limit holds for those in it. In a container, the mount itself may be the container's group.
        group = mount / path.strip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(mount):
                break
            try:
                most, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
                of_files = (folder / "memory.stat").read_text().split(f"\n{cache} ")
            except FileNotFoundError:
                continue
            if most != "max":
                # Files that it has read, and that lie in memory as long as there is room, are not taken.
                yield int(most) - used + (int(of_files[1].split()[0]) if len(of_files) > 1 else 0)
