"""Made-up data sets and records with a known answer, for examples and tests."""
