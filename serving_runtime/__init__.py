"""What serves, and the doors to it: Ray Serve and Prometheus."""
