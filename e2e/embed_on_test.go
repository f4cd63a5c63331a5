//go:build embedfirst

package e2e

func init() { buildFlags = append(buildFlags, "-tags", "embedfirst") }
