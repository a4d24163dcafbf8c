"""Published datasets -> episode datasets. Foreign names are translated here, once."""
