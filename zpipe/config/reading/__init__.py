"""What reading any table of a TOML file needs: typed values, variables, lines, mistakes. Must not live here: any key by name."""
