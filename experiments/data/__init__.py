"""Data sets, their partitions among workers, and batches."""
