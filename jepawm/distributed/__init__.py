"""The only room that imports ray. Each actor or Ray task here is a thin shell around an object of the library."""
