"""What a run wrote down."""
