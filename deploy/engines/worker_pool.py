"""An EXTERNAL worker pool: starts a Python worker process whenever an engine asks for one.

Beam's own pool knows a worker by the id that the engine gives. Two Flink task managers on one host both call their
first worker "1-1", and the end of one then ends the other's: the job hangs. Here a worker ends by itself, when the
engine closes its connection; a request to stop one is answered and ignored. Workers are forked from a process that has
imported Beam, pyarrow and the transforms already, and start in milliseconds instead of seconds.

    python -m deploy.engines.worker_pool PORT LOG_DIRECTORY
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from concurrent import futures
from pathlib import Path

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

_ENDING = (signal.SIGTERM, signal.SIGINT)
_STATE_CACHE_BYTES = 100 << 20
#: What every worker imports; none of it starts a thread, which would not survive the fork.
_PRELOAD = [
    "apache_beam",
    "apache_beam.runners.worker.sdk_worker",
    "nnsparse_stream.transforms.read",
    "nnsparse_stream.transforms.shards",
    "nnsparse_stream.transforms.sparsify",
    "nnsparse_stream.transforms.vocabulary",
    # Seconds of every worker that has a model.
    "torch",
    "nnsparse_stream.kernels.cpu.backend",
]


class WorkerPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Serves one host.

    Args:
        logs: directory that receives `worker-PID.log` of each worker.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOAD)

    def StartWorker(  # noqa: N802 (the service's name)
        self, request: beam_fn_api_pb2.StartWorkerRequest, context: grpc.ServicerContext
    ) -> beam_fn_api_pb2.StartWorkerResponse:
        """Starts a worker process."""
        work = (request.control_endpoint.url, request.worker_id, str(self._logs))
        self._context.Process(target=_work, args=work, daemon=True).start()
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(  # noqa: N802
        self, request: beam_fn_api_pb2.StopWorkerRequest, context: grpc.ServicerContext
    ) -> beam_fn_api_pb2.StopWorkerResponse:
        """Leaves the end to the worker itself: the id may be another task manager's too."""
        return beam_fn_api_pb2.StopWorkerResponse()


def _work(control: str, worker_id: str, logs: str) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    log = os.open(os.path.join(logs, f"worker-{os.getpid()}.log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from apache_beam.runners.worker.sdk_worker import SdkHarness

    SdkHarness(control, worker_id=worker_id, state_cache_size=_STATE_CACHE_BYTES, data_buffer_time_limit_ms=-1).run()


def main(port: int, logs: Path) -> None:
    """Serves until SIGTERM or SIGINT, and ends its workers then."""
    logs.mkdir(parents=True, exist_ok=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    server = grpc.server(futures.ThreadPoolExecutor(32))
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(WorkerPool(logs), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    signal.sigwait(_ENDING)
    server.stop(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
