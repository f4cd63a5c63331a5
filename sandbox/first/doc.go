// Package first is the life of a sandbox's first process: this very program, executed
// again in new namespaces, or program, which is nothing but this package. It builds the
// walls, starts the foreign program behind them, stays as its init, and reports how it
// ended. For a probe the program behind the walls is this one once more, which tries each
// of them. The package owns what happens inside; package sandbox, which starts it and
// reads the report, owns what happens outside.
//
// It imports nothing but syscall and what that needs. Packages are initialised in the
// order of their paths as soon as what they import is ready; so this one is among the
// first, and its init takes the process over before the other packages of a large
// program are set up, which would take longer than building the walls.
package first
