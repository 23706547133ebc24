"""Invented mail of an organisation's relays, years of it, the same for everybody who asks.

Read `generator` first.
"""
