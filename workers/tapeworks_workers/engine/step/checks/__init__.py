"""Checks of a traced step: what it trains, and the state that it holds."""
