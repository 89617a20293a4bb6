"""Random tables written by pandas, polars and DuckDB, read by `csv`, `parquet` and `jsonl` and by those libraries.

python -m qualification.tables --count 300
"""
