"""What a pipeline shuffles, and with which coders."""

from __future__ import annotations

import apache_beam as beam
from apache_beam.coders import coders

from nnsparse_stream.transforms.coders import RecordBatchCoder

#: These pickle what they have no better way for; FastPrimitivesCoder is what a type without a coder gets.
_FALLBACKS = (coders.PickleCoder, coders.DillCoder, coders.CloudpickleCoder, coders.FastPrimitivesCoder)


def coders_of_shuffles(pipeline: beam.Pipeline) -> dict[str, list[coders.Coder]]:
    """The coder of what enters each GroupByKey, with its components, by the label."""
    visitor = _Visitor()
    pipeline.visit(visitor)
    return visitor.found


def carries_blocks(parts: list[coders.Coder]) -> bool:
    """Whether the elements hold Arrow blocks."""
    return any(isinstance(part, RecordBatchCoder) for part in parts)


def falls_back(parts: list[coders.Coder]) -> bool:
    """Whether an element, or a part of one, may be pickled."""
    return any(isinstance(part, _FALLBACKS) for part in parts)


class _Visitor(beam.pipeline.PipelineVisitor):
    def __init__(self) -> None:
        self.found: dict[str, list[coders.Coder]] = {}

    def visit_transform(self, node: beam.pipeline.AppliedPTransform) -> None:
        self._collect(node)

    def enter_composite_transform(self, node: beam.pipeline.AppliedPTransform) -> None:
        self._collect(node)

    def _collect(self, node: beam.pipeline.AppliedPTransform) -> None:
        if isinstance(node.transform, beam.GroupByKey):
            self.found[node.full_label] = all_parts(beam.coders.registry.get_coder(node.inputs[0].element_type))


def all_parts(coder: coders.Coder) -> list[coders.Coder]:
    """A coder, and those that it is made of."""
    if isinstance(coder, coders.NullableCoder):  # Beam's Reshuffle keeps the elements' timestamps, or None, in it
        return [coder]
    return [coder, *(part for child in coder._get_component_coders() for part in all_parts(child))]
