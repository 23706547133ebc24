"""Is everything on record?  Postfix's log and the archive, held against each other."""
