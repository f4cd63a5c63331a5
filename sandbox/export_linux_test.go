package sandbox

// WithoutWalls is the linux runtime with some walls left out, by the names that a probe
// reports: for tests that prove that what a wall stops gets through without it.
func WithoutWalls(names ...string) Runtime { return linux{without: names} }
