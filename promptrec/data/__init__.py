"""Data sets: downloading, parsing, and preparing what the two papers use, or data of your own."""
