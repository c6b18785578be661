"""A Flink cluster: job manager, task managers, Beam's job server, and a pool of workers."""
