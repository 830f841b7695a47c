"""The database: requests, candidates and raw events. Nothing else in the backend speaks SQL."""
