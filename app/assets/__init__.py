"""Templates of assets and the assets made from them."""
