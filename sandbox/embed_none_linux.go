//go:build !embedfirst || (!amd64 && !arm64)

package sandbox

// firstProgram is what the first process executes; none = this very program.
var firstProgram []byte
