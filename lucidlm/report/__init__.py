"""What is said of numbers and of a run."""
