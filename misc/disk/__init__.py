"""Reading and writing files safely: atomic writes, sets of files, locks, pickles, tensors, HDF5."""
