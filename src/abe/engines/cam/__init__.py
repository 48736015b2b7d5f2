"""Class activation maps: weighted channels of a layer."""
