"""Both papers' tables, claims and consistency checks, drawn from records."""
