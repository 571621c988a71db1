"""Training: noise, masks and objective of block diffusion, and the pipeline that makes the bundled model."""
