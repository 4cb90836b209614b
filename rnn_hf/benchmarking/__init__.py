"""Speed as ratios: things run in turn in one process, medians of several rounds."""
