"""A Flink cluster on this machine, for Beam pipelines: job manager, task managers, job server, worker pool.

    python -m deploy.engines.flink start --directory DIR

`start` again replaces what has died, a task manager for instance, and leaves the rest alone.
"""

from __future__ import annotations

import sys

from deploy.engines.engine import main
from deploy.engines.flink.cluster import FlinkCluster

if __name__ == "__main__":
    sys.exit(main(FlinkCluster, __doc__))
