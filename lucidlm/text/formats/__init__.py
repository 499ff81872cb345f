"""One file comes in, its text goes out: a module for each format, and what tells formats and encodings."""
