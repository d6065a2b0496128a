"""Features in the forms of other programs, and how their arrays become those of the project."""
