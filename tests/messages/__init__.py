"""The corpus: messages that broke signers, archives and databases, and what must become of them.

Data only.  `corpus.CASES` is everything of a size that any test can afford, `corpus.LARGE` the
rest, `corpus.CONVERSATIONS` says which are to be sent one after another over one connection.
"""
