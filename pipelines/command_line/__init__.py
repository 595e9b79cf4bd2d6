"""What each command of `sluice` takes and prints; what it does is in `pipelines/commands/`."""
