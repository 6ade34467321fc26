"""Other servers, with the same weights and the same pictures, measured in turn with ours."""
