"""All numerics: the planner, the instrument, and the engines that methods compose."""
