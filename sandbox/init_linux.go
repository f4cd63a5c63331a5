package sandbox

import "github.com/spare-compute/spare/sandbox/first"

// Init must be the first line of main. In a sandbox's first process it builds the walls,
// runs the program, and never returns; everywhere else it does nothing.
func Init() { first.Run() }
