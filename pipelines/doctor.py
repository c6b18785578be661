"""`nnsparse-stream doctor`: what is installed and usable here."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import time
import uuid

DESCRIPTION = """\
Show what is installed and usable here: versions, devices, runners, storage.

Each URL is taken for a directory: a small file is written there, read back and removed.

  nnsparse-stream doctor s3://bucket/prefix /tmp
"""

_PACKAGES = ("nnsparse-stream", "apache-beam", "pyarrow", "torch", "numba", "numpy", "fsspec")
_PROTOCOLS = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "http": "aiohttp"}
_EXTRAS = {"s3": "s3", "gs": "gcs", "az": "azure"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `doctor`."""
    parser.add_argument("url", nargs="*", help="a directory to write to and read from")


def run(args: argparse.Namespace, beam_flags: list[str]) -> None:
    """Prints the findings.

    Raises:
        InputError: a given URL is not usable.
    """
    from nnsparse_stream.errors import InputError

    print(f"{'python':<16} {platform.python_version()}, {platform.platform()}, {os.cpu_count()} CPUs")
    for package in _PACKAGES:
        print(f"{package:<16} {importlib.metadata.version(package)}")
    print("\ndevices")
    for line in _devices():
        print(f"  {line}")
    print("\nrunners")
    for line in _runners(beam_flags):
        print(f"  {line}")
    print("\nstorage")
    print("  file, memory: usable")
    for protocol, module in _PROTOCOLS.items():
        installed = importlib.util.find_spec(module) is not None
        hint = f"; pip install 'nnsparse-stream[{_EXTRAS[protocol]}]'" if protocol in _EXTRAS else ""
        print(f"  {protocol}: " + (f"{module} is installed" if installed else f"{module} is not installed{hint}"))
    failed = []
    for url in args.url:
        problem = _storage_problem(url)
        print(f"  {url}: " + (problem or "written to and read back"))
        if problem:
            failed.append(url)
    if failed:
        raise InputError(f"not usable: {', '.join(failed)} (see above)")


def _devices() -> list[str]:
    import torch

    from nnsparse_stream.nn.devices import users

    lines = [f"cpu: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"]
    if not torch.cuda.is_available():
        return [*lines, f"cuda: no usable GPU (torch {torch.__version__})", _kernels()]
    for index in range(torch.cuda.device_count()):
        held = torch.cuda.get_device_properties(index)
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info(index))
        precision = "bfloat16 and TF32" if held.major >= 8 else "no TF32, and bfloat16 only as storage"
        used = f", {users(index)} processes of ours use it" if users(index) else ""
        lines.append(
            f"cuda:{index}: {held.name}, compute capability {held.major}.{held.minor}, {free:.0f} of {total:.0f} GiB "
            f"free, {precision}{used}"
        )
    return [*lines, _kernels()]


def _kernels() -> str:
    """What the loops of training run by on a GPU."""
    from nnsparse_stream.kernels.backends import gpu_backend

    found = gpu_backend()
    if isinstance(found, str):
        return f"kernels for cuda: {found}, torch operations serve (right, and several times slower)"
    return f"kernels for cuda: triton {importlib.metadata.version('triton')}"


def _runners(beam_flags: list[str]) -> list[str]:
    import apache_beam as beam

    from nnsparse_stream.pipelines.running import run_pipeline

    def build(pipeline: beam.Pipeline) -> None:
        counted = pipeline | beam.Create([1, 2, 3]) | beam.combiners.Count.Globally()
        _ = counted | beam.Map(_expect_three)

    started = time.perf_counter()
    try:
        run_pipeline(build, beam_flags)
        tried = f"a test pipeline ran in {time.perf_counter() - started:.1f} s"
    except Exception as error:  # whatever is wrong with the runner is what the user wants to read
        tried = f"a test pipeline failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    name = " ".join(beam_flags) if beam_flags else "in process (the default)"
    dataflow = importlib.util.find_spec("google.cloud.dataflow_v1beta3") if _has_google_cloud() else None
    return [
        f"{name}: {tried}",
        "PortableRunner (Flink, Spark, Prism by --job_endpoint): part of Beam",
        "DataflowRunner: " + ("its client is installed" if dataflow else "needs pip install 'apache-beam[gcp]'"),
    ]


def _has_google_cloud() -> bool:
    return importlib.util.find_spec("google") is not None and importlib.util.find_spec("google.cloud") is not None


def _expect_three(count: int) -> None:
    if count != 3:
        raise RuntimeError(f"the runner counted {count} of 3 elements")


def _storage_problem(url: str) -> str | None:
    """What is wrong with a directory's URL, or None."""
    from nnsparse_stream.storage import files as storage

    name = storage.join(url, f"nnsparse-stream-doctor-{uuid.uuid4().hex}")
    content = uuid.uuid4().bytes
    try:
        storage.write_file(name, content)
        read = storage.read_file(name)
        storage.remove_file(name)
    except Exception as error:  # storage libraries raise whatever their client raises; it is the finding
        return f"not usable: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return None if read == content else "not usable: what was read is not what was written"


if __name__ == "__main__":
    from nnsparse_stream.pipelines.cli import run_module

    run_module("doctor")
