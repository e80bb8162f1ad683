"""Original layouts of published datasets, one file each."""
