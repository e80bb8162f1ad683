"""A page about trained runs: what it shows, its plots, its HTML."""
