"""A trained model in use: recommendations for a table of users, the command line, a doctor."""
