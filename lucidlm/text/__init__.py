"""Files come in, training batches go out: documents, tokens, a split, windows."""
