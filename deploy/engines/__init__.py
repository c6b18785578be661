"""Engines on one machine, without Docker: each module is a program, `python -m deploy.engines.prism` and so on."""
