"""Studies: a grid of configs and seeds over the stages of the job, run once each, and what comes out of it."""
