"""From folders of image files to packed images: what ``prepare.py`` does."""
