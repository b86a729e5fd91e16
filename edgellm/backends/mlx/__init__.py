"""MLX through mlx-lm, an optional dependency: `pip install 'edgellm[mlx]'`."""
