"""The commands that instances find on their PATH. They run without site packages, so that they start quickly."""
