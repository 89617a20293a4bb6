"""The database: engine, tables, migrations. One transaction per request."""
