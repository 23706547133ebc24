"""Real parts that tests run: a private Postfix, a mail sink, a raw SMTP client.

Everything listens on loopback high ports, lives in a temporary directory and ends with its context
manager.  Nothing here knows Carbonseal.
"""
