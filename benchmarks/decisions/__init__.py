"""Rules that decide about a rollout, and the traffic that they decide by: many simulated rollouts side by side."""
