"""A batch: the request file that goes in, and the manifest that comes out.

lines      the request file, line by line: JSON lines, CSV, Parquet
tables     rows of CSV and Parquet files
seen       a set of millions of names
batch      the inputs and outputs of a batch
order      the order in which requests are sent
streaming  sends the requests, and accounts for every line
manifest   the outcome of every request
figures    what the outputs took, and cost
progress   how far a batch is, and how long it will still take
control    what a batch is asked to do, and its report
"""
