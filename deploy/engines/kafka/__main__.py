"""A broker of Kafka on this machine, one node of KRaft; its jars come by Maven.

python -m deploy.engines.kafka start --directory DIR
"""

from __future__ import annotations

import sys

from deploy.engines.engine import main
from deploy.engines.kafka.broker import Kafka

if __name__ == "__main__":
    sys.exit(main(Kafka, __doc__))
