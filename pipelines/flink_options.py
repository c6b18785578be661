"""Options of Beam's runner for Flink that jobs here need: Beam for Python passes them on, and does not know them."""

from __future__ import annotations

import argparse

from apache_beam.options.pipeline_options import PipelineOptions


class FlinkOptions(PipelineOptions):
    """Makes these flags known, as soon as this module is imported: others are refused as misspelt."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        # Without defaults: what is not given is not sent.
        for name, text in (
            ("checkpointing_interval", "milliseconds between checkpoints"),
            ("min_pause_between_checkpoints", "milliseconds between the end of a checkpoint and the next one's begin"),
            ("checkpoint_timeout_millis", "milliseconds after which a checkpoint is given up"),
            ("environment_expiration_millis", "milliseconds after which a worker is given no further bundle"),
            ("max_bundle_size", "elements of a bundle at most"),
            ("max_bundle_time_mills", "milliseconds of a bundle at most"),
        ):
            parser.add_argument(f"--{name}", type=int, default=None, help=text)
        for name, text in (
            ("finish_bundle_before_checkpointing", "end bundles before a checkpoint"),
            ("externalized_checkpoints_enabled", "keep the last checkpoint of a job that fails"),
            ("retain_externalized_checkpoints_on_cancellation", "and of one that is cancelled"),
            ("allow_non_restored_state", "take up a savepoint that has more than the job needs"),
        ):
            parser.add_argument(f"--{name}", action="store_true", default=None, help=text)
        parser.add_argument("--savepoint_path", default=None, help="savepoint or checkpoint to go on from")
        parser.add_argument("--state_backend", default=None, help='"filesystem" or "rocksdb"')
        parser.add_argument("--state_backend_storage_path", default=None, help="URL of the state backend's checkpoints")
