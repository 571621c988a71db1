"""The paper's findings at small scale: a small world, small models, and the experiments about them."""
