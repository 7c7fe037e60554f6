"""Attempts that are transactions: what they write is committed with their outcome."""
