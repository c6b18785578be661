"""Stops the stream that runs on a Flink cluster, with a savepoint, and writes the patch that lets it go on from there.

kubectl port-forward service/nnsparse-flink-rest 8081 &
python -m deploy.flink.savepoint
kubectl replace --force -k deploy/flink/resume
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from deploy.engines.flink.rest import FlinkRest
from deploy.engines.servers import EngineError

_PATCH = Path(__file__).parent / "resume" / "savepoint.json"
_LOOK_SECONDS = 0.5


def stop(flink: FlinkRest, job: str | None) -> str:
    """Stops a job, and returns where its savepoint lies.

    Args:
        flink: the cluster.
        job: its id; None for the only one that runs.

    Raises:
        EngineError: not exactly one runs, or it cannot make a savepoint.
        OSError: the cluster does not answer.
    """
    if job is None:
        running = [one for one in flink.ask("jobs/overview")["jobs"] if one["state"] == "RUNNING"]
        if len(running) != 1:
            named = ", ".join(f"{one['jid']} ({one['name']})" for one in running) or "none"
            raise EngineError(f"there is not one job that runs: {named}; name it by --job")
        job = str(running[0]["jid"])
    trigger = flink.begin_stop(job, None)
    while (savepoint := flink.savepoint(job, trigger)) is None:
        time.sleep(_LOOK_SECONDS)
    return savepoint


def patch(savepoint: str) -> str:
    """The JSON patch of the job `stream` that begins it with a savepoint."""
    flag = f"--savepoint_path={savepoint}"
    return json.dumps([{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": flag}]) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flink", default="http://localhost:8081", metavar="URL", help="(default: %(default)s)")
    parser.add_argument("--job", metavar="ID", help="which (default: the only one that runs)")
    parser.add_argument("--patch", type=Path, default=_PATCH, metavar="FILE", help="to write (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        savepoint = stop(FlinkRest(args.flink), args.job)
    except (EngineError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(savepoint)
    args.patch.write_text(patch(savepoint))
    return 0


if __name__ == "__main__":
    sys.exit(main())
