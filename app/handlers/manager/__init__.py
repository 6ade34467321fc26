"""The one process that holds the pools of all handlers of a server. It never imports what an archive holds."""
