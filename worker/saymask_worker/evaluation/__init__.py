"""Measuring methods on datasets with ground truth. Files only, no database."""
