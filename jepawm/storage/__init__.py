"""Homes in object stores: what folders give for nothing (locks, renames, one view for all) on S3 and its relatives.

A run or dataset is one *stored folder*: numbered manifests name its files, and a folder on the local disk is its
working copy. With a plain path for `$JEPAWM_HOME` nothing here does any work.
"""
