"""Reading referring-segmentation data sets that others made."""
