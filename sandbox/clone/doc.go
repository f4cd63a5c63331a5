// Package clone starts the first process of a sandbox. It does what syscall.ForkExec does
// with the same attributes, but without a copy of this process's page tables, which for a
// process that sets up a user namespace ForkExec has to make, and which costs more than
// all its namespaces do.
package clone
