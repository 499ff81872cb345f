"""Where it runs: files, downloads, devices."""
