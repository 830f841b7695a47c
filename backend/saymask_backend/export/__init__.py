"""Records to files other tools load: no HTTP, no Label Studio, no database."""
