"""From files to batches: documents, tokens, a split, windows."""
