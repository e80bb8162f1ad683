"""The mutations, one room a file."""
