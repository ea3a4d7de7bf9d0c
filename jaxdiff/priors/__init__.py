"""What is known of images before anything is measured: networks and closed forms, all as `Prior`."""
