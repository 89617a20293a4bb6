"""From exceptions and traces to coded failures and diagnostics with source locations."""
