"""The database: tables, one store per concern, and the rules that turn submissions into records.

No other package of the backend uses SQL.
"""
