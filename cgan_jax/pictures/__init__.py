"""Arrays to images: grids, plots, frames of GIFs. Knows nothing of runs."""
