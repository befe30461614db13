"""What `zpipe new` writes: a plugin that works, with its options, tests and config, to be changed into one's own.

`plugin_files` says which files there are; `templates` has their texts. Nothing else of zpipe is needed for that.
"""
