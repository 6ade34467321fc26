"""The whole state on its way out of a database and into another one."""
