"""From sound to numbers: the recipe, the statistics, the shaping of x_T, and the microphone."""
