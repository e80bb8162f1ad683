"""Trained models as one file that runs without this package: what is computed, the card, the formats."""
