"""Expressions about millions of images, without a queue and without Label Studio: Parquet out."""
