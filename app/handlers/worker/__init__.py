"""The process that runs one handler, with `ts-package` as the `ts` it imports. It knows no HTTP and no settings."""
