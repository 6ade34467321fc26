"""An HTTP worker's side of handlers: it asks the manager for answers. It never imports what an archive holds."""
