"""Scripts that write generated files of the documentation; `make docs` runs all of them."""
