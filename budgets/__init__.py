"""What should run: budgets, pressures, triggers and plans. Pure but for the sources."""
