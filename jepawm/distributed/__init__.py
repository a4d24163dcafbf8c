"""The only room that imports ray. An actor here is a shell around a library object."""
