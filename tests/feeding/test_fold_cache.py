"""Where a training fold stays, and that it makes no difference to what is trained."""

from pathlib import Path

import pytest
import torch
from runs import assert_same_run, request

from nnsparse_stream.errors import InputError
from nnsparse_stream.feeding import fold_cache
from nnsparse_stream.feeding.fold_cache import PLACES, choose_cache, free_memory
from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.training.progress import Progress
from nnsparse_stream.training.start import train

CPU = torch.device("cpu")


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 9999 kB\nMemFree: 1 kB\nMemAvailable:    2000 kB\n"}


def test_free_memory_is_what_linux_says_within_the_limits_of_control_groups(tmp_path):
    assert free_memory(machine(tmp_path / "none", {})) is None
    plain = {**MEMINFO, "proc/self/cgroup": "0::/\n"}
    assert free_memory(machine(tmp_path / "plain", plain)) == 2_048_000
    group = "sys/fs/cgroup/jobs"
    second = {
        **MEMINFO,
        "proc/self/cgroup": "0::/jobs/mine\n",
        f"{group}/mine/memory.max": "max\n",
        f"{group}/mine/memory.current": "7\n",
        f"{group}/mine/memory.stat": "anon 5\ninactive_file 2\n",
        f"{group}/memory.max": "1000000\n",
        f"{group}/memory.current": "300000\n",
        f"{group}/memory.stat": "anon 200000\nfile 100000\ninactive_file 90000\n",
    }
    assert free_memory(machine(tmp_path / "second", second)) == 790_000
    # In a container the group's path is that of the machine, and what is mounted is the group.
    first = {
        **MEMINFO,
        "proc/self/cgroup": "5:cpu:/docker/1\n4:memory:/docker/1\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "500000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "600000\n",
        "sys/fs/cgroup/memory/memory.stat": "cache 9\ntotal_inactive_file 150000\n",
    }
    assert free_memory(machine(tmp_path / "first", first)) == 50_000


def test_a_fold_stays_where_it_fits(monkeypatch):
    monkeypatch.setattr(fold_cache, "free_memory", lambda root: 2_000_000)
    assert choose_cache(None, 1_000_000, CPU) == ("host", "stays in memory, of which 2 MB are free")
    too_large = "read in every epoch, since it takes more than 50% of the free memory"
    assert choose_cache(None, 1_000_001, CPU) == ("none", too_large)
    assert choose_cache(None, 500_001, CPU, reserved=1_000_000) == ("none", too_large)
    assert choose_cache("none", 1, CPU) == ("none", "read in every epoch")
    assert choose_cache("device", 1_500_000, CPU)[0] == "device"
    with pytest.raises(InputError, match=r"`cache` host: the training fold takes 3 MB, and 2 MB of memory are free"):
        choose_cache("host", 3_000_000, CPU)
    # A GPU has room of its own, and is preferred.
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4_000_000, 9_000_000))
    gpu = torch.device("cuda")
    assert choose_cache(None, 2_000_000, gpu) == ("device", "stays in the GPU's memory, of which 4 MB are free")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1_000_000, 9_000_000))
    assert choose_cache(None, 1_000_000, gpu)[0] == "host"
    monkeypatch.setattr(fold_cache, "free_memory", lambda root: None)
    assert choose_cache(None, 1_000_000, gpu) == ("none", "read in every epoch")
    assert choose_cache("host", 10**12, gpu) == ("host", "stays in memory")


def test_the_weights_are_the_same_wherever_the_fold_stays(trained, tmp_path):
    """Of a run, too, that is resumed in the middle of an epoch with another cache; and each says where."""
    small = recipe("cfn", hidden=(4,), epochs=2, batch_entries=300)
    told = []

    class Told(Progress):
        def cache_chosen(self, size, told_of_it):
            told.append((size, told_of_it.split(",")[0]))

    for cache in (*PLACES, None):
        train(request(trained, tmp_path / str(cache), recipe=small, cache=cache), progress=Told())
    for cache in ("device", "host", None):
        assert_same_run(tmp_path / "none", tmp_path / str(cache))
    train(request(trained, tmp_path / "broken", recipe=small, cache="host", max_steps=9))
    train(request(trained, tmp_path / "broken", recipe=small, cache="device", resume=True))
    assert_same_run(tmp_path / "none", tmp_path / "broken")
    assert [place for _, place in told[:4]] == [
        "stays in memory",
        "stays in memory",
        "read in every epoch",
        "stays in memory",
    ]


def test_there_are_no_other_places(trained, tmp_path):
    with pytest.raises(InputError, match="`cache` is one of device, host, none, not disk"):
        request(trained, tmp_path / "run", cache="disk")
    with pytest.raises(InputError, match="has no steps but one: leave out `cache`"):
        request(trained, tmp_path / "run", recipe=recipe("linear"), cache="host")
