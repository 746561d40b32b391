"""A small, believable world for newcomers: institutions, templates, assets, positions that keep moving."""
