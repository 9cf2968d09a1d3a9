"""WHAT COULD BE DOWNLOADED: the public library's pages, or a file in their place."""
