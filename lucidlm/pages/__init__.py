"""Pages that stand alone: records in, HTML out."""
