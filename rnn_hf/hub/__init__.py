"""The Hub: what a repository holds, its card, and how it gets there."""
