"""What a worker that runs a model is to have; what runs none asks for nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import apache_beam as beam

from nnsparse_stream.errors import InputError


class ModelWorker(NamedTuple):
    """What the steps that run a model ask for.

    The hints are Beam's own (`with_resource_hints`), and stand at these steps only, so that an engine that gives each
    stage fitting machines (Dataflow's right fitting) has GPUs where they work. Engines that know no hints run the same.

    Attributes:
        device: "auto", "cpu", "cuda" or "cuda:N" of the worker; see `nnsparse_stream.nn.devices.pick_device`.
        accelerator: for instance "type:nvidia-l4;count:1;install-nvidia-driver".
        min_ram: of a worker, for instance "16GB".
    """

    device: str = "auto"
    accelerator: str | None = None
    min_ram: str | None = None

    def runs(self, do: beam.DoFn, *sides: Any) -> beam.ParDo:
        """A step that runs a model, with what it asks for.

        Raises:
            InputError: Beam does not take a hint.
        """
        step = beam.ParDo(do, *sides)
        for name, value in self.hints().items():
            try:
                step = step.with_resource_hints(**{name: value})
            except ValueError as error:
                raise InputError(f"`{name}` {value}: {error}") from error
        return step

    def hints(self) -> dict[str, str]:
        """What is asked for, by Beam's names of the hints."""
        given = {"accelerator": self.accelerator, "min_ram": self.min_ram}
        return {name: value for name, value in given.items() if value is not None}
