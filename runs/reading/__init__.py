"""Lets files of others in: only regular ones, within limits that say their name, and Parquet only when it is sound."""
