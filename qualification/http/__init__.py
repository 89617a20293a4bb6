"""A fuzzer of the HTTP interface: mutated requests against a real service, beside a worker of another project."""
