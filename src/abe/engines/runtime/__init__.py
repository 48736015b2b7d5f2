"""Running a model: rows in chunks, counted, on the fastest verified copy."""
