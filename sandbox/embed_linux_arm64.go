//go:build embedfirst

package sandbox

import _ "embed"

//go:embed first_linux_arm64
var firstProgram []byte
