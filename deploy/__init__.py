"""Engines on one machine, without Docker: each module is a program, `python -m deploy.prism` and so on."""
