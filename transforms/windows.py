"""Input that is cut into windows, for transforms whose results are of all of it."""

from __future__ import annotations

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows

from nnsparse_stream.errors import InputError


def refuse_windows(transform: beam.PTransform, *inputs: beam.PCollection) -> None:
    """Refuses inputs that are cut into windows: their results would have one name, or be of one window only.

    Raises:
        InputError: there is such an input.
    """
    for given in inputs:
        windows = given.windowing.windowfn
        if not isinstance(windows, GlobalWindows):
            raise InputError(
                f"{type(transform).__name__} takes its input as a whole, and it is cut into windows "
                f"({type(windows).__name__}); put it into the global window first: WindowInto(GlobalWindows())"
            )
