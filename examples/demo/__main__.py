"""`python -m examples.demo`."""

from examples.demo.run import main

main()
