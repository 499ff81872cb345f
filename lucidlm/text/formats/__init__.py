"""One file comes in, its text goes out: a module per format, and detection of formats and encodings."""
