"""Ray Data: from a folder or bucket of images to Parquet, one row per object."""
