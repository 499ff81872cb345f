"""From token ids to a number, and to the next token."""
