"""A page on this machine where one signs: films, keypoints, the likeliest signs, and the nearest of a dictionary."""
