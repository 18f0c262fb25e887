"""`python -m sadstream`."""

from sadstream_cli import main

main()
