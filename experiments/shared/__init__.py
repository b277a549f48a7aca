"""What the commands share: flags, errors on the screen, progress, the run itself."""
