"""TensorFlow and Keras: their files, and how they become an IR. Nothing else imports tensorflow or keras."""
