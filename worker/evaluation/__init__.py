"""The yardstick: published data sets in, tables with intervals out. Files only, no database."""
