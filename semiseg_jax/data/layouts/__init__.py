"""Published datasets as their authors lay them out, a file each."""
