"""A study: its trials, what is measured of each, the statistics over all, and the pages that show them. No Ray.

`cells` says which trials a study has, `probes` and `measures` what is found of one, `records` keeps it on disk,
`statistics` and `summary` compare, `page` and `markdown` show.
"""
