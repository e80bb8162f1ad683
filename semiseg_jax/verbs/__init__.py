"""What a user asks for, one verb a file."""
