"""Label files of other tools: in, to the folder layout that training reads, and out, for people to correct."""
