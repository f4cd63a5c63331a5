package first

const (
	sysSeccomp = 317
)
