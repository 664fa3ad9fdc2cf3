"""A run and its record, the registry of models, grids of runs, searches, plots."""
