"""Load generators, and side-by-side reports of Holdfast and its peers."""
