"""What scripts/check_setup.py looks at: packages and devices, data files, trained runs."""
