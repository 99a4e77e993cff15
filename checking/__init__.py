"""Checks that training on this machine does what is promised."""
