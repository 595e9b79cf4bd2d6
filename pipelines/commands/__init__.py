"""What the commands of `sluice` do, as functions: they return notes, text and paths, and print nothing."""
