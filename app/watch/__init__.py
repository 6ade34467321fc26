"""What is seen of a model once it answers: drift, later truths, a candidate beside it. It knows no HTTP."""
