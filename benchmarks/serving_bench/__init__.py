"""Parts of the serving benchmark: the models, the systems, the load, the figures and the goals."""
