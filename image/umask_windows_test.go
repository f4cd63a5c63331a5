package image_test

func umask(int) int { return 0 }
