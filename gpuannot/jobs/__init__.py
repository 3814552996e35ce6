"""Long work: annotating any number of images, and fitting over Dask. Imports system, images, method, model."""
