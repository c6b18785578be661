"""Flex templates for Dataflow: the program that the launcher starts, and what the templates are made of."""
