"""Training: noise, masks and objective of block diffusion, the trainer, and the pipeline of the bundled model."""
