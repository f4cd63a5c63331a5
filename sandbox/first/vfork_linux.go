//go:build linux && (amd64 || arm64)

package first

// vfork starts a process that shares this one's memory, and this thread's stack, until it
// becomes a program; so long this thread stands still. It returns a negated error number
// if that fails. A process with memory of its own would cost the copying of page tables.
func vfork() (pid int)
