"""The alternating update in closed form, for pairs of MLPs (docs/closed-form-step.md)."""
