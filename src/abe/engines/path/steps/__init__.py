"""Parts of steps, shared by attacks and paths: what is aimed at, estimated, taken."""
