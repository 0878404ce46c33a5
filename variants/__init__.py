"""What can run: models, their variants, the engines that execute them and the tools that build and measure them."""
