"""What tests share: fixtures, helpers, models and programs, one module for each area."""
