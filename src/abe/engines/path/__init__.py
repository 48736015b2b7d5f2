"""The Fundamental Attribution Method: static and dynamic paths, integrated."""
