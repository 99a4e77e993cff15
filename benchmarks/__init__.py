"""Speed beside named peers: each module is a program that prints a table and writes JSON."""
