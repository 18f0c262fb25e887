"""The version, where modules that `sadstream` itself imports can read it."""

VERSION = "0.1.0"
