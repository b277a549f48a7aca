"""A run on disk: its folder, checkpoints, lock, tables and TensorBoard events."""
