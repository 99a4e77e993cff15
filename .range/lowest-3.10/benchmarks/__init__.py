"""Speed beside named peers. Each module is a program that prints a table and writes JSON."""
