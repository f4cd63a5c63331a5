package first

const (
	sysSeccomp = 277
)
