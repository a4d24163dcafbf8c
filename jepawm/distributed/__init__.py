"""The only room that imports ray. Each actor or Ray task here is a thin shell around an object of the library."""

from jepawm.distributed.session import prepare_environment

# Before any module of this room imports Ray, which reads the variables then.
prepare_environment()
