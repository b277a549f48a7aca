"""What tells a person about a run: callbacks that write files, animations, the HTML page."""
