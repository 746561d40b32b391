"""How GraphQL documents are run, and the words every slice's types share."""
