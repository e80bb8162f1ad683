"""Mutations are no tests: `run.py` runs them."""

collect_ignore_glob = ["*"]
