"""Bearer tokens of an OpenID provider: who they say asks, and whether to believe them."""
