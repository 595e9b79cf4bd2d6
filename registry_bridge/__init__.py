"""The doors to the two registries of truth: MLflow and Git."""
